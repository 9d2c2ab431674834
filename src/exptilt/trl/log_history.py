"""Names of metrics as transformers' Trainer and TRL log them."""

from __future__ import annotations

from collections.abc import Mapping

from exptilt.training.throughput import TIMINGS

_LEFT_OUT = {"seconds", "tokens", "unique_tokens", *(name.removeprefix("train/") for name in TIMINGS)}
"""What a run measures of itself."""
_NAMES = {"lr": "learning_rate"}


def training_logs(values: Mapping[str, float]) -> dict[str, float]:
    """A line of training in TRL's names; empty where a line is of something else.

    Example:
        >>> training_logs({"train/loss": 0.69, "train/lr": 1e-6, "train/rewards/chosen": 0.0, "train/seconds": 1.0})
        {'loss': 0.69, 'learning_rate': 1e-06, 'rewards/chosen': 0.0}
    """
    named = {name.removeprefix("train/"): value for name, value in values.items() if name.startswith("train/")}
    return {_NAMES.get(name, name): value for name, value in named.items() if name not in _LEFT_OUT}


def evaluation_logs(values: Mapping[str, float], prefix: str = "eval") -> dict[str, float]:
    """A line of held-out metrics in transformers' names; empty where a line is of something else.

    Example:
        >>> evaluation_logs({"eval/loss": 0.69, "eval/rewards/margins": 0.1, "eval/tokens": 7})
        {'eval_loss': 0.69, 'eval_rewards/margins': 0.1}
    """
    named = {name.removeprefix("eval/"): value for name, value in values.items() if name.startswith("eval/")}
    return {f"{prefix}_{name}": value for name, value in named.items() if name not in _LEFT_OUT}
