"""A folder with images of blobs, pairs of masks and a recipe, for runs on masks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from exptilt.settings.any_recipe import load_recipe
from exptilt.settings.mask_settings import MaskRecipe

sys.path.insert(0, str(Path(__file__).parent))  # tests find `mask_rows` there
from mask_rows import write_pairs

RECIPE = """\
segmenter: {config: {channels: 1, width: 4, levels: 2}}
data: {train: pairs.jsonl, test: held.jsonl}
output: run
batch: {size: 6, images: 4}
train: {epochs: 2, log_every: 1, save_every: 2, eval_every: 3}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: 18 rows to train on, 6 held out, and the recipe r.yaml."""
    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path, "pairs", 18, 0)
    write_pairs(tmp_path, "held", 6, 1)
    (tmp_path / "r.yaml").write_text(RECIPE)
    return tmp_path


@pytest.fixture
def recipe_of(here: Path) -> Callable[..., MaskRecipe]:
    """`recipe_of("key=value", ...)`: the recipe with overrides."""

    def make(*overrides: str) -> MaskRecipe:
        recipe = load_recipe("r.yaml", overrides)
        assert isinstance(recipe, MaskRecipe)
        return recipe

    return make
