"""A model that is trained beside the policy, on the same micro-batches: the critic of an actor-critic method."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from exptilt.policies.scorer import TrainableScorer
from exptilt.training.objective import Objective


@dataclass(kw_only=True)
class Learner:
    """A model, its scorer, its objective and what moves it; it needs no reference."""

    model: nn.Module
    scorer: TrainableScorer
    objective: Objective
    optimizer: torch.optim.Optimizer
    schedule: LRScheduler
    max_grad_norm: float
