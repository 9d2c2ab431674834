"""Runs through the real path: a file of rows, a recipe, a run folder."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exptilt.settings.data_settings import BatchConfig, DataConfig
from exptilt.settings.evaluation_settings import EvaluateConfig
from exptilt.settings.model_settings import ModelConfig, SmallModel
from exptilt.settings.recipe import Recipe
from exptilt.settings.training_settings import OptimConfig, TrainConfig
from exptilt.training.throughput import TIMINGS

sys.path.insert(0, str(Path(__file__).parent))  # tests, and the processes they start, find `worlds` there

WORDS = ["a", "good", "film", "bad", "plot", "the", "was", "very", "dull", "fine"]
SMALL = {"hidden_size": 8, "num_layers": 1, "num_heads": 2, "vocab_size": 265, "max_positions": 96}


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[..., str]:
    """`write_rows(num=40, seed=0)`: preferences with a longer rejected side; the path of the file."""

    def write(num: int = 40, seed: int = 0) -> str:
        rng = random.Random(seed)

        def words() -> str:
            return " ".join(rng.choices(WORDS, k=rng.randint(1, 3)))

        path = tmp_path / f"rows-{seed}.jsonl"
        rows = [
            {"prompt": f"{number} {words()}", "chosen": f" {words()}", "rejected": f" {words()} no"}
            for number in range(num)
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


@pytest.fixture
def recipe_of(tmp_path: Path, write_rows: Callable[..., str]) -> Callable[..., Recipe]:
    """`recipe_of(loss, name="run", model={...}, small={...}, train={...}, **sections)`: twelve steps, five rows held out."""

    def make(
        loss: Any, name: str = "run", model: Any = None, small: Any = None, train: Any = None, **other: Any
    ) -> Recipe:
        path = write_rows()
        settings = {"epochs": 100.0, "max_steps": 12, "log_every": 1, "eval_every": 5, "save_every": 1, **(train or {})}
        return Recipe(
            output=str(tmp_path / name),
            model=ModelConfig(**{"config": SmallModel(**{**SMALL, **(small or {})}), **(model or {})}),
            loss=loss,
            train=TrainConfig(**settings),
            **{
                "data": DataConfig(train=path, test_fraction=0.15),
                "batch": BatchConfig(size=8, tokens=90),
                "optim": OptimConfig(learning_rate=1e-2),
                "evaluate": EvaluateConfig(num_prompts=0),
                **other,
            },
        )

    return make


@pytest.fixture
def metrics_of() -> Callable[..., list[dict[str, Any]]]:
    """The lines of a run's metrics.jsonl, without timings."""

    def read(recipe: Recipe) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (recipe.folder / "metrics.jsonl").read_text().splitlines()]
        return [{name: value for name, value in line.items() if name not in TIMINGS} for line in lines]

    return read
