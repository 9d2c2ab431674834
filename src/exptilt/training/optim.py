"""Optimizer and learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import get_scheduler

from exptilt.errors import ConfigError, ModelError
from exptilt.settings.training_settings import OptimConfig
from exptilt.training.adafactor import Adafactor
from exptilt.wording import in_one_line


def build_optimizer(settings: OptimConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Make the optimizer over the model's trainable parameters, plain or sharded.

    Raises:
        ConfigError: the optimizer needs a package that is not installed, or cannot work on sharded weights.
        ModelError: no weight is trainable.
    """
    groups = parameter_groups(model, settings.weight_decay)
    if not groups:
        raise ModelError("the model has no weight to train: all are frozen (requires_grad is False)")
    return _MAKERS[settings.name](settings, groups)


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
    """Make the schedule over `num_steps` optimizer steps.

    With w steps of warm-up, step s (from 0) has the share (s + 1) / (w + 1) of the peak, and step w the peak, so no step has
    rate 0. With `warmup_from_zero` it has s / w, as in transformers, whose first step moves nothing. Behind the warm-up the
    schedules are those of transformers.

    Raises:
        ConfigError: the schedule has no such setting.
    """
    warmup = _warmup_steps(settings, num_steps)
    share = _share(settings, warmup, num_steps)

    def with_warmup(step: int) -> float:
        if step >= warmup:
            return share(step)
        if settings.warmup_from_zero:  # a schedule that ends above zero begins there, too
            return step / warmup if settings.schedule in _DECAYS else share(step)
        return (step + 1) / (warmup + 1)

    return LambdaLR(optimizer, with_warmup)


def _warmup_steps(settings: OptimConfig, num_steps: int) -> int:
    """Number of steps of the warm-up; transformers rounds a share up."""
    if settings.warmup_steps is not None:
        return settings.warmup_steps
    share = settings.warmup_ratio * num_steps
    return math.ceil(share) if settings.warmup_from_zero else round(share)


def _share(settings: OptimConfig, warmup: int, num_steps: int) -> Callable[[int], float]:
    """The share of the peak by step, from step `warmup` on; of transformers' schedules by any step."""
    if settings.schedule in _DECAYS:
        decay = _DECAYS[settings.schedule]
        return lambda step: decay(min(1.0, (step - warmup) / max(1, num_steps - warmup)))
    # The schedule's function of the step is read off a schedule of one weight that nothing else knows.
    peak = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=settings.learning_rate)
    try:
        schedule = get_scheduler(settings.schedule, peak, warmup, num_steps, dict(settings.schedule_args))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"optim.schedule_args: {in_one_line(error)} (optim.schedule={settings.schedule}, by transformers)"
        ) from None
    share: Callable[[int], float] = schedule.lr_lambdas[0]
    return share


_DECAYS: dict[str, Callable[[float], float]] = {
    "linear": lambda done: 1 - done,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "constant": lambda done: 1.0,
}
"""Share of the peak by the share of the steps behind the warm-up that is done."""
