"""A folder with images of blobs, pairs of masks and a recipe, for runs on masks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from exptilt.data.masks.image_files import write_mask
from exptilt.settings.any_recipe import load_recipe
from exptilt.settings.mask_settings import MaskRecipe
from exptilt.testbed.blobs import blobs, thickened

RECIPE = """\
segmenter: {config: {channels: 1, width: 4, levels: 2}}
data: {train: pairs.jsonl, test: held.jsonl}
output: run
batch: {size: 6, images: 4}
train: {epochs: 2, log_every: 1, save_every: 2, eval_every: 3}
"""


def write_pairs(folder: Path, name: str, count: int, seed: int, size: int = 16) -> list[dict[str, Any]]:
    """Images of blobs; the true mask is chosen, a mask that is a pixel too thick is rejected."""
    images, masks = blobs(count, size, seed)
    wrong = thickened(masks, 1)
    rows = []
    for at in range(count):
        stem = f"{name}{at}"
        Image.fromarray(images[at]).save(folder / f"{stem}.png")
        write_mask(folder / f"{stem}-true.png", masks[at])
        write_mask(folder / f"{stem}-wrong.png", wrong[at])
        row = {"image": f"{stem}.png", "chosen": f"{stem}-true.png", "rejected": f"{stem}-wrong.png"}
        rows.append({**row, "target": row["chosen"]})
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


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
