"""A tiny model that can speak a little, and prompts for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exptilt.policies.models import load_model
from exptilt.policies.saving import save_model
from exptilt.policies.tokenizers import train_tokenizer
from exptilt.settings.load import build
from exptilt.settings.model_settings import ModelConfig, SmallModel
from exptilt.settings.recipe import Recipe
from exptilt.settings.yaml_source import Source

NUM_PROMPTS = 12


@pytest.fixture(scope="session")
def speaker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a model with random weights that are large enough to prefer some tokens."""
    folder = tmp_path_factory.mktemp("speaker")
    tokenizer = train_tokenizer(["the film was good and the plot was bad"] * 4, 280)
    size = SmallModel(hidden_size=16, num_layers=1, num_heads=2, max_positions=32, initializer_range=0.3)
    save_model(load_model(ModelConfig(config=size), tokenizer), tokenizer, folder / "model")
    prompts = [json.dumps({"prompt": f"the film {number}"}) for number in range(NUM_PROMPTS)]
    (folder / "prompts.jsonl").write_text("\n".join(prompts) + "\n")
    return folder


@pytest.fixture
def rounds_recipe(speaker: Path, tmp_path: Path) -> Callable[..., Recipe]:
    """A recipe of two quick rounds; keyword arguments lay sections over it."""

    def make(output: str = "run", rounds: dict[str, Any] | None = None, **sections: Any) -> Recipe:
        of_rounds = {"num_rounds": 2, "num_samples": 4, "law": {"max_new_tokens": 6}, "samples_at_once": 4}
        values = {
            "output": str(tmp_path / output),
            "model": {"path": str(speaker / "model")},
            "data": {"train": str(speaker / "prompts.jsonl")},
            "batch": {"size": 4},
            "optim": {"learning_rate": 3e-3},
            "train": {"epochs": 2, "save_every": 1, "log_every": 1},
            "evaluate": {"num_prompts": 6},
            "rounds": of_rounds | ({"reward": {"kind": "length"}} if rounds is None else rounds),
        }
        return build(Recipe, Source(label="test", values=values | sections))

    return make
