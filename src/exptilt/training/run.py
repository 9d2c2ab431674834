"""A run: all parts that the loop works with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from exptilt.policies.scorer import MicroBatches, Scorer, TrainableScorer
from exptilt.processes.world import World
from exptilt.run_folder.file_names import CHECKPOINTS
from exptilt.settings.training_settings import TrainConfig
from exptilt.training.callbacks.callback import Callback
from exptilt.training.learner import Learner
from exptilt.training.objective import Objective
from exptilt.training.sums import Sums


@dataclass
class Run:
    """One training run, ready to start."""

    model: nn.Module
    objective: Objective
    policy: TrainableScorer
    reference: Scorer | None
    batches: BatchSource
    optimizer: torch.optim.Optimizer
    schedule: LRScheduler
    settings: TrainConfig
    max_grad_norm: float
    num_steps: int
    folder: Path
    identity: Mapping[str, str]
    """Values that must be equal for a resume: fingerprints of recipe, data and reference by name."""
    defaults: Mapping[str, str] = field(default_factory=dict)
    """The values that a checkpoint of an earlier version has under names it does not know."""
    callbacks: Sequence[Callback] = ()
    drawn: Callable[[int, Sums], None] = field(default=lambda step, sums: None)
    """Adds to the sums of a step, before any weight moves, what was measured of the completions that were drawn for it, of all
    processes; it may refuse the step. Nothing where rows are given."""
    critic: Learner | None = None
    """Trained beside the policy, on the same micro-batches."""
    seed: int = 0
    """Seed of dropout and of everything else that draws from the global generators."""
    world: World = field(default_factory=World.alone)
    """The processes that share every global batch; each has a `Run` of its own, equal but for its shards and rows."""

    @property
    def learners(self) -> tuple[Run | Learner, ...]:
        """All that is trained: the policy, and the critic where there is one."""
        return (self,) if self.critic is None else (self, self.critic)

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.folder / CHECKPOINTS


class BatchSource(Protocol):
    """The batches of a run, addressed by step so that a resume needs no replay."""

    @property
    def num_steps(self) -> int:
        """Optimizer steps in one pass over the data."""

    def step(self, step: int) -> MicroBatches:
        """The micro-batches of optimizer step `step`, counted from 0 over all epochs."""
