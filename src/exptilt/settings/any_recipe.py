"""A recipe of either kind: for texts, or, where it has the section `segmenter`, for masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from exptilt.errors import ConfigError
from exptilt.settings.grid_settings import GridRecipe
from exptilt.settings.load import load
from exptilt.settings.mask_grid_settings import MaskGridRecipe
from exptilt.settings.mask_settings import MaskRecipe
from exptilt.settings.recipe import Recipe
from exptilt.settings.yaml_source import read_yaml

AnyRecipe = Recipe | MaskRecipe
AnyGrid = GridRecipe | MaskGridRecipe


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> AnyRecipe:
    """Read a recipe.

    Raises:
        ConfigError: a line per problem.
    """
    cls: type[AnyRecipe] = MaskRecipe if names_segmenter(path, overrides) else Recipe
    return load(cls, path, overrides)


def load_grid(path: str | Path, overrides: Sequence[str] = ()) -> AnyGrid:
    """Read the recipe of a study.

    Raises:
        ConfigError: a line per problem.
    """
    cls: type[AnyGrid] = MaskGridRecipe if names_segmenter(path, overrides) else GridRecipe
    return load(cls, path, overrides)


def load_text_recipe(path: str | Path, overrides: Sequence[str], instead: str) -> Recipe:
    """Read a recipe for texts.

    Args:
        path: the file.
        overrides: `key=value`.
        instead: what a recipe for masks is told, in words.

    Raises:
        ConfigError: a line per problem; or the recipe is one for masks.
    """
    if names_segmenter(path, overrides):
        raise ConfigError(f"{path}: a recipe for masks (it has `segmenter`); {instead}")
    return load(Recipe, path, overrides)


def is_run_on_masks(what: str | Path) -> bool:
    """Whether this is the folder of a run on masks."""
    config = Path(what).expanduser() / "config.yaml"
    return config.is_file() and names_segmenter(config)


def names_segmenter(path: str | Path, overrides: Sequence[str] = ()) -> bool:
    """Whether a recipe, or what is laid over it, has the section `segmenter`, which makes it one of masks.

    Raises:
        ConfigError: the file is no YAML.
    """
    stated = {item.lstrip("-").partition("=")[0].partition(".")[0] for item in overrides}
    return "segmenter" in read_yaml(path).values or "segmenter" in stated
