"""A recipe of either kind: for texts, or, where it has the section `segmenter`, for masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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
    cls: type[AnyRecipe] = MaskRecipe if "segmenter" in read_yaml(path).values else Recipe
    return load(cls, path, overrides)


def load_grid(path: str | Path, overrides: Sequence[str] = ()) -> AnyGrid:
    """Read the recipe of a study.

    Raises:
        ConfigError: a line per problem.
    """
    cls: type[AnyGrid] = MaskGridRecipe if "segmenter" in read_yaml(path).values else GridRecipe
    return load(cls, path, overrides)
