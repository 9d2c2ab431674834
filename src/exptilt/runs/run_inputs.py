"""Every path that a run reads, by the key that names it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from exptilt.kinds import PROMPT, Kind
from exptilt.settings.data_settings import DataConfig
from exptilt.settings.mask_settings import MaskRecipe
from exptilt.settings.model_settings import ModelConfig
from exptilt.settings.own_parts import OwnPart
from exptilt.settings.recipe import Recipe
from exptilt.settings.rounds_settings import RoundsConfig


def rows_read(recipe: Recipe) -> tuple[DataConfig, Kind]:
    """The settings by which a run reads its rows, and what it reads them as."""
    return (recipe.data, recipe.loss.kind) if recipe.rollout is None else (prompt_data(recipe), PROMPT)


def prompt_data(recipe: Recipe) -> DataConfig:
    """The settings of the data of an online run: a prompt that is there twice is asked once."""
    return replace(recipe.data, on_duplicate="drop") if recipe.data.on_duplicate == "error" else recipe.data


def inputs_of(recipe: Recipe | MaskRecipe) -> dict[str, str]:
    """Every path that a run reads and must not overwrite, by its key."""
    if isinstance(recipe, MaskRecipe):
        of_masks = {
            "segmenter.path": recipe.segmenter.path,
            "data.train": recipe.data.train,
            "data.test": recipe.data.test,
            "rounds.images": recipe.rounds and recipe.rounds.images,
        }
        return {key: path for key, path in of_masks.items() if path}
    named = {"reference.model": recipe.reference.model, "adapter.path": recipe.adapter and recipe.adapter.path}
    named |= {} if recipe.rounds is None else _inputs_of_rounds(recipe.rounds)
    return model_inputs(recipe.model) | data_inputs(recipe.data) | {key: path for key, path in named.items() if path}


def _inputs_of_rounds(rounds: RoundsConfig) -> dict[str, str | None]:
    """Paths that `rounds:` names, by key."""
    return {"rounds.prompts": rounds.prompts, **reward_inputs(rounds.reward, "rounds.reward")}


def reward_inputs(reward: Any, prefix: str) -> dict[str, str]:
    """Paths that settings of a reward name, by key; of a name alone, the folder it is."""
    if isinstance(reward, str):
        return {prefix: reward} if Path(reward).expanduser().is_dir() else {}
    if reward is None or isinstance(reward, OwnPart):
        return {}
    named = {f"{prefix}.{name}": getattr(reward, name, None) for name in ("path", "policy", "reference")}
    return {key: path for key, path in named.items() if path}


def model_inputs(model: ModelConfig, prefix: str = "model") -> dict[str, str]:
    """Paths that settings of a model name, by key."""
    named = {f"{prefix}.path": model.path, f"{prefix}.tokenizer": model.tokenizer}
    return {key: path for key, path in named.items() if path}


def data_inputs(data: DataConfig, prefix: str = "data") -> dict[str, str]:
    """Paths that settings of data name, by key."""
    return {f"{prefix}.{key}": path for key, path in data.paths.items() if path}
