"""Identity of a run: the values that must be equal for a resume."""

from __future__ import annotations

import json
from pathlib import Path

from exptilt.errors import CheckpointError, ConfigError
from exptilt.run_folder.file_names import CONFIG
from exptilt.run_folder.folder import RunFolder
from exptilt.settings.declaration import as_dict, declared_defaults, dotted
from exptilt.settings.load import dump, load
from exptilt.settings.mask_settings import MaskRecipe
from exptilt.settings.recipe import Recipe

_NO_EFFECT = ("output", "evaluate.", "train.log_", "train.report_", "train.eval_", "train.save_", "train.keep_",
              "train.resume", "train.stop_", "train.best", "train.patience", "train.compile", "train.gradient_",
              "parallel.", "reference.cache", "batch.tokens", "batch.images", "data.workers", "rounds.num_rounds",
              "rounds.samples_at_once", "rounds.least_labelled", "rollout.samples_at_once", "rollout.sampler.")  # fmt: skip
"""Keys that may change between an interruption and its resume: no step depends on them beyond rounding."""


def identity(recipe: Recipe | MaskRecipe, **content: str) -> dict[str, str]:
    """Collect every key of a recipe that moves a weight, and fingerprints of the files and models that it names."""
    flat = _written_values(recipe)
    start = Path() if isinstance(recipe, MaskRecipe) else Path(recipe.model.path or "")
    if start.is_relative_to(recipe.folder):  # the supervised phase's model moves with the run
        flat["model.path"] = json.dumps(str(start.relative_to(recipe.folder)))
    return {key: value for key, value in flat.items() if not key.startswith((*_NO_EFFECT, "sft", "rounds"))} | content


def changed_keys(old: Recipe | MaskRecipe, new: Recipe | MaskRecipe) -> list[str]:
    """Keys that differ between two recipes and move a weight, keys of the supervised phase included."""
    old_values, new_values = (_written_values(recipe) for recipe in (old, new))
    keys = [key for key in {**old_values, **new_values} if old_values.get(key) != new_values.get(key)]
    if (getattr(old, "sft", None) is None) != (getattr(new, "sft", None) is None):
        keys = ["sft", *(key for key in keys if not key.startswith("sft"))]
    return [key for key in keys if not key.removeprefix("sft.").startswith(_NO_EFFECT)]


def is_finished(folder: RunFolder, recipe: Recipe | MaskRecipe) -> bool:
    """Whether a folder holds a finished run of this recipe, or of one that lacks keys which came later and are at their defaults."""
    if folder.run.status != "done":
        return False
    try:
        return load(type(recipe), folder.path / CONFIG) == recipe
    except ConfigError:
        return False


def refuse_another_run(recipe: Recipe | MaskRecipe, folder: RunFolder) -> None:
    """Refuse a folder whose run was made by a recipe that moves weights otherwise.

    Raises:
        CheckpointError: naming what is different.
    """
    written = folder.recipe_text()
    if written is None or written == dump(recipe) or not folder.has_results():
        return
    try:
        changed = changed_keys(load(type(recipe), folder.path / CONFIG), recipe)
    except ConfigError:
        changed = ["config.yaml, which this version of exptilt does not read"]
    if changed:
        raise CheckpointError(
            f"{folder.path}: holds a run of another recipe (different: {_listed(changed)}); set another output, "
            "or train.resume=never to move that run aside and start anew"
        )


def _listed(keys: list[str]) -> str:
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return ", ".join(keys[:3]) + more


def defaults_of(recipe: Recipe | MaskRecipe) -> dict[str, str]:
    """The default of every key of a recipe, as `identity` writes values.

    A checkpoint that an earlier version wrote lacks the keys that came later. It was made as their defaults say.
    """
    return {key: json.dumps(value) for key, value in declared_defaults(recipe).items()}


def _written_values(recipe: Recipe | MaskRecipe) -> dict[str, str]:
    """Every key of a recipe with its value as JSON; an empty section is left out."""
    return {key: json.dumps(value) for key, value in dotted(as_dict(recipe)).items() if value != {}}
