"""Identity of a run: what must be equal for a resume."""

from __future__ import annotations

import json
from pathlib import Path

from exptilt.settings.declaration import as_dict, dotted
from exptilt.settings.recipe import Recipe

_NO_EFFECT = ("output", "evaluate.", "train.log_", "train.report_", "train.eval_", "train.save_", "train.keep_",
              "train.resume", "train.stop_", "train.best", "train.patience", "train.compile", "train.gradient_",
              "parallel.", "reference.cache", "batch.tokens")  # fmt: skip
"""Keys that may change between an interruption and its resume: no step depends on them beyond rounding."""


def identity(recipe: Recipe, **content: str) -> dict[str, str]:
    """What must be equal for a resume: every key that moves a weight, and fingerprints of what they point at."""
    flat = _written_values(recipe)
    start = Path(recipe.model.path or "")
    if start.is_relative_to(recipe.folder):  # the supervised phase's model moves with the run
        flat["model.path"] = json.dumps(str(start.relative_to(recipe.folder)))
    return {key: value for key, value in flat.items() if not key.startswith((*_NO_EFFECT, "sft"))} | content


def changed_keys(old: Recipe, new: Recipe) -> list[str]:
    """Keys in which two recipes differ and that move a weight, those of the supervised phase among them."""
    one, other = (_written_values(recipe) for recipe in (old, new))
    keys = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    if (old.sft is None) != (new.sft is None):
        keys = ["sft", *(key for key in keys if not key.startswith("sft"))]
    return [key for key in keys if not key.removeprefix("sft.").startswith(_NO_EFFECT)]


def _written_values(recipe: Recipe) -> dict[str, str]:
    """Every key of a recipe and its value as JSON; an empty section says nothing."""
    return {key: json.dumps(value) for key, value in dotted(as_dict(recipe)).items() if value != {}}
