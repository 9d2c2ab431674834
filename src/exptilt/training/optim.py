"""Optimizer and learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from exptilt.errors import ConfigError
from exptilt.settings.training_settings import OptimConfig
from exptilt.training.adafactor import Adafactor


def build_optimizer(settings: OptimConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Make the optimizer over the model's trainable parameters, plain or sharded.

    Raises:
        ConfigError: the optimizer needs a package that is not installed, or cannot work on sharded weights.
    """
    return _MAKERS[settings.name](settings, parameter_groups(model, settings.weight_decay))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: those that decay, and norms and biases, which never do.

    A norm is recognised by its module, since its weight need not be a vector (one per head is a matrix); embeddings and
    adapters decay, as they do in transformers' Trainer and in nanoGPT. A group without members is left out.
    """
    spared = {id(parameter) for parameter in _norms_and_biases(model)}
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [weight for weight in trainable if id(weight) not in spared], "weight_decay": weight_decay},
        {"params": [weight for weight in trainable if id(weight) in spared], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _norms_and_biases(model: nn.Module) -> Iterator[nn.Parameter]:
    for module in model.modules():
        is_norm = "norm" in type(module).__name__.lower()
        for name, parameter in module.named_parameters(recurse=False):
            if is_norm or parameter.ndim < 2 or name.endswith("bias"):
                yield parameter


def _adamw(settings: OptimConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    betas = (settings.beta1, settings.beta2)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=betas, eps=settings.eps, fused=True)


def _adamw_8bit(settings: OptimConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    try:
        eight_bits: Any = import_module("bitsandbytes.optim")
    except ImportError:
        raise ConfigError(
            "optim.name=adamw_8bit needs bitsandbytes: pip install 'exptilt[qlora]', or set optim.name=adamw "
            "or adafactor"
        ) from None
    if any(hasattr(parameter, "device_mesh") for parameter in _all(groups)):
        raise ConfigError(
            "optim.name=adamw_8bit cannot work on sharded weights; set optim.name=adamw, or parallel.kind=ddp"
        )
    betas = (settings.beta1, settings.beta2)
    optimizer: torch.optim.Optimizer = eight_bits.AdamW8bit(
        groups, lr=settings.learning_rate, betas=betas, eps=settings.eps
    )
    return optimizer


def _adafactor(settings: OptimConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return Adafactor(groups, lr=settings.learning_rate)


def _rmsprop(settings: OptimConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.RMSprop(list(_all(groups)), lr=settings.learning_rate, eps=settings.eps)


def _all(groups: Iterable[dict[str, Any]]) -> Iterator[nn.Parameter]:
    for group in groups:
        yield from group["params"]


_MAKERS: dict[str, Callable[[OptimConfig, list[dict[str, Any]]], torch.optim.Optimizer]] = {
    "adamw": _adamw,
    "adamw_8bit": _adamw_8bit,
    "adafactor": _adafactor,
    "rmsprop": _rmsprop,
}


def build_schedule(settings: OptimConfig, optimizer: torch.optim.Optimizer, num_steps: int) -> LRScheduler:
    """Make the schedule over `num_steps` optimizer steps; no step has rate 0.

    With w steps of warm-up, step s (from 0) has the share (s + 1) / (w + 1) of the peak, and step w the peak. In
    transformers the first step has rate 0, so it moves nothing; otherwise the schedules are the same.
    """
    warmup = round(settings.warmup_ratio * num_steps)
    decay = _DECAYS[settings.schedule]

    def share(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return decay(min(1.0, (step - warmup) / max(1, num_steps - warmup)))

    return LambdaLR(optimizer, share)


_DECAYS: dict[str, Callable[[float], float]] = {
    "linear": lambda done: 1 - done,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "constant": lambda done: 1.0,
}
"""Share of the peak by the share of the steps behind the warm-up that is done."""
