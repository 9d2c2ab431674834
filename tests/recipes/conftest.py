"""Preferences as a user has them, and one small finished run for all tests that only look at it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from exptilt.config import dump, load
from exptilt.recipes.recipe import Recipe
from exptilt.recipes.training import run_recipe

WORDS = ("red", "blue", "green", "good", "bad", "tall", "short", "wet", "dry", "old")
SETTINGS = [
    "model.config={hidden_size: 16, num_layers: 1, num_heads: 2, max_positions: 64, vocab_size: 300}",
    "batch.size=8",
    "optim.learning_rate=1e-3",
    "evaluate={num_prompts: 2, num_samples: 1, max_new_tokens: 6}",
]


def rows(count: int = 30, topic: str = "it") -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"Question {number}: is {topic} {WORDS[number % len(WORDS)]}?",
            "chosen": f" Yes, {topic} is {WORDS[number % len(WORDS)]}.",
            "rejected": f" No, never {WORDS[(number + 3) % len(WORDS)]} at all.",
        }
        for number in range(count)
    ]


@pytest.fixture
def pairs() -> Callable[..., list[dict[str, Any]]]:
    """`pairs(count=30, topic="it")`: preference rows, all prompts distinct."""
    return rows


def write_jsonl(path: Path, content: Sequence[Mapping[str, Any] | str]) -> Path:
    lines = (row if isinstance(row, str) else json.dumps(row) for row in content)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[..., Path]:
    """`write_rows(name, rows)`: a JSON-lines file in the test's folder; a row that is text stands as it is."""
    return lambda name, content: write_jsonl(tmp_path / name, content)


def tiny_recipe(folder: Path, data: Path, *overrides: str) -> Recipe:
    keys = [f"output={folder}", f"data.train={data}", "data.test_fraction=0.3", *SETTINGS, *overrides]
    return load(Recipe, None, keys)


@pytest.fixture
def make_recipe(tmp_path: Path, write_rows: Callable[..., Path]) -> Callable[..., Recipe]:
    """`make_recipe("key=value", ...)`: a tiny run on thirty rows in the folder `run`."""
    data = write_rows("pairs.jsonl", rows())
    return lambda *overrides: tiny_recipe(tmp_path / "run", data, *overrides)


@pytest.fixture(scope="session")
def _trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recipe]:
    home = tmp_path_factory.mktemp("finished")
    with mock.patch.dict(os.environ, {"EXPTILT_CACHE": str(home / "cache")}):
        recipe = tiny_recipe(home / "run", write_jsonl(home / "pairs.jsonl", rows()), "sft={train: {epochs: 2}}")
        run_recipe(recipe, page=False)
        yield recipe


@pytest.fixture
def finished(_trained: Recipe, tmp_path: Path) -> Recipe:
    """The recipe of a finished run, supervised phase and all, in a folder of the test's own."""
    shutil.copytree(_trained.folder, tmp_path / "finished")
    recipe = replace(_trained, output=str(tmp_path / "finished"))
    (recipe.folder / "config.yaml").write_text(dump(recipe))
    return recipe
