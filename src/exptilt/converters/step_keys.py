"""Steps of another tool's configuration: the learning rate's schedule, and when things are written, measured and kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import get_args

from exptilt.converters.draft import Draft
from exptilt.settings.training_settings import Schedule

_STRATEGIES = ("eval_strategy", "evaluation_strategy", "save_strategy", "logging_strategy")
_EVERY = {
    "eval_steps": ("train.eval_every", ("eval_strategy", "evaluation_strategy")),
    "save_steps": ("train.save_every", ("save_strategy",)),
    "logging_steps": ("train.log_every", ("logging_strategy",)),
}
_WARMUPS = ("warmup_steps", "num_warmup_steps", "warmup_ratio")
_BEST = ("load_best_model_at_end", "metric_for_best_model", "greater_is_better")
_ARGUMENTS = "lr_scheduler_kwargs"
_OPTIMIZERS = {
    "adamw_8bit": "adamw_8bit",
    "adamw_bnb_8bit": "adamw_8bit",
    "paged_adamw_8bit": "adamw_8bit",
    "adafactor": "adafactor",
    "rmsprop": "rmsprop",
    "rmsprop_bnb": "rmsprop",
}
_ADAMW = ("adamw", "adam", "adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_apex_fused", "adamw_torch_xla", "adamw_anyprecision",
          "paged_adamw", "paged_adamw_32bit")  # fmt: skip


def convert_steps(draft: Draft) -> None:
    """Set the keys of `optim` that make its schedule, and those of `train` that count steps."""
    _limit(draft)
    _warmup(draft)
    _schedule(draft)
    for key in ("optim", "optimizer"):
        if isinstance(draft.get(key), str) or key == "optim":
            _optimizer(draft, key)
    for key, (ours, strategies) in _EVERY.items():
        _count(draft, key, ours, next((name for name in strategies if name in draft.source), None))
    for key in _STRATEGIES:
        if key in draft.source and key not in draft.fates:
            draft.no_effect("the number of steps says it", key)
    _best(draft)


def num_steps(draft: Draft) -> int | None:
    """Optimizer steps of the run there; None where the number of rows is not known."""
    limit = draft.get("max_steps", default=-1)
    if isinstance(limit, int | float) and limit > 0:
        return int(limit)
    per_epoch = _steps_per_epoch(draft)
    return None if per_epoch is None else math.ceil(draft.number("num_train_epochs", default=3) * per_epoch)


def _steps_per_epoch(draft: Draft) -> int | None:
    size = draft.settings.get("batch.size")
    return None if draft.rows is None or not size else max(1, math.ceil(draft.rows / size))


def _limit(draft: Draft) -> None:
    limit = draft.get("max_steps")
    if isinstance(limit, int | float) and limit > 0:
        draft.use("train.max_steps", int(limit), "max_steps")
        draft.settings["train.epochs"] = float(limit)  # enough for that many steps, which overrule epochs there
        epochs = (key for key in ("num_train_epochs", "num_epochs") if key in draft.source)
        draft.no_effect("max_steps overrules it there", *epochs)
        return
    if "max_steps" in draft.source:
        draft.as_default("no limit here as well", "max_steps")
    total = num_steps(draft)
    if total is not None and draft.number("num_train_epochs", default=3) % 1:  # a part of an epoch is rounded up there
        draft.settings["train.max_steps"] = total
        draft.use("train.epochs", float(total), "num_train_epochs", because=f"{total} steps, as there")


def _warmup(draft: Draft) -> None:
    stated = [key for key in _WARMUPS if draft.has(key)]
    key = next((key for key in stated if draft.number(key)), None)
    for zero in (other for other in stated if other != key):
        draft.use("optim.warmup_ratio", 0.0, zero) if key is None else draft.no_effect(f"{key} says it", zero)
    if key is None:
        return
    number = draft.number(key)
    ours, value = ("optim.warmup_ratio", number) if number < 1 else ("optim.warmup_steps", int(number))
    draft.use(ours, value, key)
    draft.settings["optim.warmup_from_zero"] = True  # their first step moves nothing


def _schedule(draft: Draft) -> None:
    names = {**{name: name for name in get_args(Schedule)}, **_OTHER_NAMES}
    for key in (key for key in ("lr_scheduler_type", "lr_scheduler") if draft.has(key)):
        name = str(getattr(draft.get(key), "value", draft.get(key)))
        if name == "constant" and draft.settings.get("optim.warmup_from_zero"):
            _without_warmup(draft)
        if name in names:
            draft.use("optim.schedule", names[name], key)
        else:
            draft.refuse(f"optim.schedule has no {name!r}", key)
    arguments = draft.get(_ARGUMENTS)
    if isinstance(arguments, Mapping) and arguments:
        draft.use("optim.schedule_args", dict(arguments), _ARGUMENTS)
    elif _ARGUMENTS in draft.source and not arguments:
        draft.as_default("none here as well", _ARGUMENTS)


_OTHER_NAMES = {"constant_with_warmup": "constant", "cosine_with_hard_restarts": "cosine_with_restarts"}
"""Schedules that have another name here."""


def _without_warmup(draft: Draft) -> None:
    """Transformers' `constant` has no warm-up, whatever else is said."""
    for ours in ("optim.warmup_from_zero", "optim.warmup_steps"):
        draft.settings.pop(ours, None)
    draft.settings["optim.warmup_ratio"] = 0.0
    draft.no_effect("the schedule constant has no warm-up there", *(key for key in _WARMUPS if key in draft.source))


def _optimizer(draft: Draft, key: str) -> None:
    value = draft.get(key)
    if value is None:
        return
    name = str(getattr(value, "value", value)).lower()
    if name in _ADAMW or name in _OPTIMIZERS:
        draft.use("optim.name", _OPTIMIZERS.get(name, "adamw"), key)
    else:
        draft.refuse(f"optim.name has no {name!r}", key)


def _count(draft: Draft, key: str, ours: str, strategy: str | None) -> None:
    """Steps between two events, which a strategy may switch off, or count in epochs."""
    kind = str(getattr(draft.get(strategy), "value", draft.get(strategy))).lower() if strategy else "steps"
    if strategy and kind in ("no", "false", "off", "none", "best"):
        draft.as_default(
            "only at the start and at the end here as well" if "eval" in key else "only at the end", strategy
        )
        draft.no_effect(f"{strategy} is {kind}", key)
        if "save" in key:
            draft.settings[ours] = 1_000_000
    elif strategy and kind == "epoch":
        draft.no_effect(f"{strategy} says it", key)
        _use_steps(draft, strategy, ours, _steps_per_epoch(draft), "once per epoch; set the number of steps")
    elif draft.has(key):
        _use_number(draft, key, ours)
    elif "eval" in key and strategy and kind == "steps" and draft.has("logging_steps"):
        _use_number(draft, strategy, ours, "logging_steps")  # as transformers does


def _use_number(draft: Draft, key: str, ours: str, read: str | None = None) -> None:
    value = draft.get(read or key)
    if not isinstance(value, int | float) or value <= 0:
        draft.as_default("no limit here as well", key)
    elif value < 1:
        total = num_steps(draft)
        steps = None if total is None else max(1, math.ceil(value * total))
        _use_steps(draft, key, ours, steps, "a share of all steps; set the number of steps")
    else:
        draft.use(ours, int(value), key)


def _use_steps(draft: Draft, key: str, ours: str, steps: int | None, refusal: str) -> None:
    if steps is None:
        draft.refuse(refusal, key)
    else:
        draft.use(ours, steps, key)


def _best(draft: Draft) -> None:
    """Which weights are kept; needs measurements on the way."""
    switch, metric, greater = (draft.get(key) for key in _BEST)
    if not switch:
        draft.as_default("the last weights are kept here as well", *(key for key in _BEST if key in draft.source))
        return
    if not draft.settings.get("train.eval_every"):
        draft.refuse("needs measurements on the way; set eval_strategy and eval_steps", _BEST[0])
        return
    name = str(metric or "loss").removeprefix("eval_").removeprefix("eval/")
    most = bool(greater) if greater is not None else not name.endswith("loss")
    stated = [key for key in _BEST if draft.has(key)]
    draft.use("train.best", f"{'max' if most else 'min'} eval/{name}", *stated)
    draft.as_default(
        "said by metric_for_best_model", *(key for key in _BEST if key in draft.source and key not in stated)
    )
