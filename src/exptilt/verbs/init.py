"""`exptilt init`: write a recipe with the keys most people touch, each with its meaning."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from exptilt.disk import write_whole
from exptilt.errors import ConfigError, DiskError
from exptilt.settings.data_settings import DataConfig
from exptilt.settings.mask_settings import MaskData, MaskRecipe, SegmenterConfig
from exptilt.settings.model_settings import ModelConfig
from exptilt.settings.recipe import Recipe
from exptilt.settings.yaml_source import read_yaml
from exptilt.verbs.config import commented_yaml

_HEAD = """\
# A recipe for exptilt: one run. Set model.path and data.train; everything else has a default.
#   exptilt doctor {path}    checks the data before it costs an hour
#   exptilt train {path}     trains, measures, writes the report; run again to go on after a stop
# Any key can be set on the command line too: exptilt train {path} loss.beta=0.2
# These are the keys most people touch. All keys: exptilt config. All objectives: exptilt config loss

"""
_KEYS = (
    "output", "seed",
    "model", "model.path", "model.dtype",
    "data", "data.train", "data.test", "data.test_fraction", "data.max_tokens",
    "data.on_empty", "data.on_identical", "data.on_duplicate", "data.on_conflict", "data.on_too_long",
    "loss", "loss.name", "loss.beta",
    "batch", "batch.size", "batch.tokens",
    "optim", "optim.learning_rate", "optim.schedule", "optim.warmup_ratio",
    "train", "train.epochs", "train.eval_every", "train.save_every",
    "evaluate", "evaluate.num_prompts", "evaluate.max_new_tokens",
)  # fmt: skip


_MASK_HEAD = """\
# A recipe for exptilt on masks: one run. Set segmenter.path (or a small U-Net) and data.train; docs/masks.md says what rows hold.
#   exptilt doctor {path}    reads every image and mask
#   exptilt train {path}     trains, measures, writes the report; run again to go on after a stop
# These are the keys most people touch. All keys: exptilt config --masks. All objectives: exptilt config loss

"""
_MASK_KEYS = (
    "output", "seed",
    "segmenter", "segmenter.path",
    "data", "data.train", "data.test", "data.test_fraction", "data.classes", "data.ignore", "data.foreground",
    "data.units", "data.reduce", "data.on_invalid", "data.on_identical", "data.on_duplicate", "data.on_conflict",
    "batch", "batch.size", "batch.images",
    "optim", "optim.learning_rate", "optim.schedule", "optim.warmup_ratio",
    "train", "train.epochs", "train.eval_every", "train.best", "train.save_every",
    "evaluate", "evaluate.rivals", "evaluate.pictures",
)  # fmt: skip


def init(path: Path, force: bool, *, masks: bool = False) -> None:
    """Write a commented recipe, for texts or for masks.

    Raises:
        ConfigError: the file exists and `force` was not given, or it is no YAML and `force` may not replace it; or it
            cannot be written.
    """
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; name a file in it, such as {path / 'recipe.yaml'}")
    if path.exists() and not force:
        raise ConfigError(f"{path}: exists already; choose another name or add --force")
    if path.exists() and not _is_recipe(path):
        raise ConfigError(f"{path}: is no recipe, and --force replaces nothing else; choose another name")
    recipe = Recipe(
        output="runs/first",
        model=ModelConfig(path="path/to/model-folder-or-hub-id"),
        data=DataConfig(train="preferences.jsonl", test_fraction=0.1),
    )
    text = _HEAD.format(path=path) + commented_yaml(recipe, _KEYS)
    if masks:
        segmenter, data = SegmenterConfig(path="path/to/segmenter"), MaskData(train="pairs.jsonl", test_fraction=0.1)
        of_masks = MaskRecipe(output="runs/masks", segmenter=segmenter, data=data)
        text = _MASK_HEAD.format(path=path) + commented_yaml(of_masks, _MASK_KEYS)
    try:
        write_whole(path, text)
    except DiskError as error:
        raise ConfigError(str(error)) from None


def _is_recipe(path: Path) -> bool:
    """Tell whether a file is YAML by its name, empty, or a recipe, perhaps with mistakes in it."""
    if path.suffix in (".yaml", ".yml"):
        return True
    try:
        values = read_yaml(path).values
    except ConfigError:
        return False
    return not values or bool(values.keys() & {field.name for field in (*fields(Recipe), *fields(MaskRecipe))})
