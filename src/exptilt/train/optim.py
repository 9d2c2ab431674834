"""Optimizer and learning-rate schedule."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from exptilt.config import config


@config
class OptimConfig:
    """How weights move."""

    name: Literal["adamw", "rmsprop"] = "adamw"
    """adamw, or rmsprop as in the DPO paper's experiments."""
    learning_rate: float = 1e-6
    """Peak learning rate, > 0."""
    weight_decay: float = 0.0
    """Decoupled decay of matrices (norms and biases never decay), >= 0; adamw only."""
    beta1: float = 0.9
    """First-moment decay of adamw, in [0, 1)."""
    beta2: float = 0.999
    """Second-moment decay of adamw, in [0, 1)."""
    eps: float = 1e-8
    """Added to the denominator, > 0."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """What follows the warm-up: down to zero linearly, by a half cosine, or no decay."""
    warmup_ratio: float = 0.1
    """Share of all steps spent rising from zero to the peak, in [0, 1)."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm, > 0."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "eps", "max_grad_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        for name in ("beta1", "beta2", "warmup_ratio"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must be >= 0, got {self.weight_decay}")


def build_optimizer(settings: OptimConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Make the optimizer over the model's trainable parameters; only matrices decay."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if settings.name == "rmsprop":
        return torch.optim.RMSprop(trainable, lr=settings.learning_rate, eps=settings.eps)
    parameter_groups = [
        {
            "params": [parameter for parameter in trainable if parameter.ndim >= 2],
            "weight_decay": settings.weight_decay,
        },
        {"params": [parameter for parameter in trainable if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    betas = (settings.beta1, settings.beta2)
    return torch.optim.AdamW(parameter_groups, lr=settings.learning_rate, betas=betas, eps=settings.eps, fused=True)


def build_schedule(settings: OptimConfig, optimizer: torch.optim.Optimizer, num_steps: int) -> LRScheduler:
    """Make the schedule, from transformers, over `num_steps` optimizer steps.

    As everywhere in transformers, a warm-up of w steps rises from zero: the first step has rate 0, step w the peak.
    """
    name = "constant_with_warmup" if settings.schedule == "constant" else settings.schedule
    warmup = round(settings.warmup_ratio * num_steps)
    schedule: LRScheduler = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=num_steps)
    return schedule
