"""Conditions of `train.stop_if` and `train.best` that could never be true in a run; they would protect nobody."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass, replace

from exptilt.errors import ConfigError
from exptilt.settings.mask_settings import MaskRecipe
from exptilt.settings.recipe import Recipe
from exptilt.settings.training_settings import OptimConfig, TrainConfig, parse_best, parse_condition
from exptilt.wording import SURE, nearest


@dataclass(frozen=True)
class _Where:
    """Where a run measures what its guard rails and conditions read."""

    of_samples: tuple[str, ...]
    """Metrics of completions that every evaluation draws (`train.eval_samples`)."""
    of_held_out_rows: tuple[str, ...]
    """Guard rails that read nothing but held-out lines."""
    kl_of_rows: bool
    """Whether KL is measured without samples."""


_OF_TEXTS = _Where(("kl", "sample_length", "ended"), ("overfitting", "kl"), False)
_OF_MASKS = _Where((), ("overfitting", "kl", "displacement", "runaway", "flat"), True)
_RANGES = {
    "accuracies": (0.0, 1.0), "accuracy": (0.0, 1.0), "ended": (0.0, 1.0), "lengths": (0.0, math.inf),
    "sample_length": (0.0, math.inf), "grad_norm": (0.0, math.inf), "spread": (0.0, math.inf),
}  # fmt: skip
"""The values that metrics can have, by a part of their names."""

_MOST = 6
"""So many names of metrics are listed."""

Names = Mapping[str, Set[str]]
"""Metrics that a run measures, of `train` and of `eval`, without these words before them."""


def refuse_impossible(recipe: Recipe | MaskRecipe, names: Names | None = None) -> None:
    """Refuse conditions that no line of a run's metrics could meet, in all its phases.

    Args:
        recipe: of the run.
        names: the metrics that its last phase measures; None where the objective has not been asked yet.

    Raises:
        ConfigError: naming the condition and the reason.
    """
    held_out = _holds_out(recipe)
    if isinstance(recipe, Recipe) and recipe.sft is not None:
        _refuse(recipe.sft.train, recipe.sft.optim, held_out, None, "sft.train")
    if isinstance(recipe, MaskRecipe):
        _refuse(recipe.train, recipe.optim, held_out, names, "train", _OF_MASKS)
        return
    online = recipe.rollout is not None
    _refuse(recipe.train, recipe.optim, held_out, names, "train", replace(_OF_TEXTS, kl_of_rows=online))


def _holds_out(recipe: Recipe | MaskRecipe) -> bool:
    data = recipe.data
    if isinstance(recipe, Recipe):
        return bool(recipe.data.held_out_sources) or data.test_fraction > 0
    return bool(data.test) or data.test_fraction > 0


def _refuse(
    train: TrainConfig, optim: OptimConfig, held_out: bool, names: Names | None, key: str, where: _Where = _OF_TEXTS
) -> None:
    for danger in train.dangers:
        if danger in where.of_held_out_rows and not held_out:
            raise _never(f"{key}.stop_if", danger, _NO_ROWS)
        if danger == "kl" and not train.eval_samples and not where.kl_of_rows:
            raise _never(f"{key}.stop_if", danger, f"KL is measured only where {key}.eval_samples is above 0")
    for condition in train.conditions:
        name, sign, limit = parse_condition(condition)
        side, _, metric = name.partition("/") if name.startswith(("train/", "eval/")) else ("train", "", name)
        reason = _unmeasured(side, metric, train, names, key, _NO_ROWS if not held_out else "", where)
        reason = reason or _out_of_reach(metric, sign, limit, optim.learning_rate)
        if reason:
            raise _never(f"{key}.stop_if", condition, reason)
    if train.best is not None:
        side, _, metric = parse_best(train.best)[1].partition("/")
        reason = _unmeasured(side, metric, train, names, key, _NO_ROWS if not held_out else "", where)
        if reason:
            raise ConfigError(f"{key}.best: {train.best!r} can never be told: {reason}")


_NO_ROWS = "there are no held-out rows; set data.test, or data.test_fraction=0.1"


def _never(key: str, condition: str, reason: str) -> ConfigError:
    return ConfigError(f"{key}: {condition!r} can never be true: {reason}")


def _unmeasured(
    side: str, metric: str, train: TrainConfig, names: Names | None, key: str, no_rows: str, where: _Where
) -> str:
    """Why a metric is not measured; empty if it is, or if that is not known yet."""
    if side == "eval" and no_rows:
        return no_rows
    if metric in where.of_samples:
        if side == "train":
            return f"{metric} is measured on held-out prompts: eval/{metric}"
        return "" if train.eval_samples else f"it is measured only where {key}.eval_samples is above 0"
    if names is None or metric in names[side]:
        return ""
    return f"there is no such metric{_meant(metric, names[side])}"


def _meant(metric: str, known: Set[str]) -> str:
    last = {name.rpartition("/")[2]: name for name in sorted(known, reverse=True)}
    near = nearest(metric, known, SURE) or last.get(nearest(metric.rpartition("/")[2], last) or "")
    if near:
        return f"; did you mean {near!r}?"
    shown = sorted(known)
    return f"; measured are {', '.join(shown[:_MOST])}{' and others, see metrics.jsonl' * (len(shown) > _MOST)}"


def _out_of_reach(metric: str, sign: str, limit: float, learning_rate: float) -> str:
    """Why no value of a metric meets a condition; empty if one could."""
    ranges = {**_RANGES, "lr": (0.0, learning_rate)}
    part = next((part for part in metric.split("/") if part in ranges), None)
    if part is None:
        return ""
    low, high = ranges[part]
    reached = {
        ">": limit < high,
        ">=": limit <= high,
        "<": limit > low,
        "<=": limit >= low,
        "==": low <= limit <= high,
    }
    if reached[sign]:
        return ""
    return f"it is never below {low:g}" if high == math.inf else f"it is between {low:g} and {high:g}"
