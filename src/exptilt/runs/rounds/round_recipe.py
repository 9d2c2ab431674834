"""The recipe of one round: what it begins with, its rows, its reference; and the data its prompts come from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from exptilt.run_folder.file_names import MODEL
from exptilt.run_folder.round_files import RoundFiles
from exptilt.settings.data_settings import DataConfig
from exptilt.settings.model_settings import ModelConfig, ReferenceConfig
from exptilt.settings.recipe import Recipe
from exptilt.settings.rounds_settings import RoundsConfig
from exptilt.settings.source_settings import SourceConfig

_SAMPLED = {
    "on_empty": "keep",  # a model may say nothing, and that is what it said
    "on_identical": "drop",
    "on_tie": "keep",  # `rounds.on_tie` has decided
    "on_duplicate": "keep",  # the same two samples twice are drawn twice
    "on_conflict": "keep",
    "on_leak": "drop",
}
"""What is done with rows that rounds make, where the recipe does not say: none of it is a mistake of somebody's."""


def rounds_of(recipe: Recipe) -> RoundsConfig:
    """The settings of the rounds of a recipe that has them."""
    if recipe.rounds is None:
        raise ValueError("this recipe has no rounds")
    return recipe.rounds


def recipe_of_round(recipe: Recipe, number: int) -> Recipe:
    """One round as an ordinary run.

    Args:
        recipe: of all rounds.
        number: which round, >= 1.
    """
    files = RoundFiles(recipe.folder, number)
    resume = "auto" if recipe.train.resume == "never" else recipe.train.resume
    return replace(
        begun_with(recipe, number),
        output=str(files.run),
        seed=seed_of(recipe, number),
        rounds=None,
        data=_data_of(recipe, number),
        reference=_reference_of(recipe, number),
        train=replace(recipe.train, resume=resume),
    )


def begun_with(recipe: Recipe, number: int) -> Recipe:
    """The recipe with the model or adapter that a round begins with: the recipe's own, or that of the round before."""
    begun = recipe if recipe.sft is None else recipe.after_sft(recipe.folder / "sft" / MODEL)
    return begun if number == 1 else begun.after_sft(RoundFiles(recipe.folder, number - 1).model)


def policy_of(recipe: Recipe, number: int) -> ModelConfig:
    """The model that a round begins with, as it is loaded to be sampled: an adapter with its base."""
    begun = begun_with(recipe, number)
    if begun.adapter is None or begun.adapter.path is None:
        return begun.model
    return replace(begun.model, path=begun.adapter.path, revision=None, quantize="none")


def seed_of(recipe: Recipe, number: int) -> int:
    """Seed of a round's samples, labels and run; that of the recipe in the first round."""
    return (recipe.seed + number - 1) % 2**32


def prompt_data(recipe: Recipe) -> DataConfig:
    """The settings by which prompts are read: all of `data.train`, or `rounds.prompts`."""
    rounds, data = rounds_of(recipe), recipe.data
    all_of_it = replace(data, test=None, test_split=None, test_where={}, test_fraction=0.0)
    if rounds.prompts is None:
        return all_of_it
    return replace(all_of_it, **_read_anyhow(rounds.prompts))


def _data_of(recipe: Recipe, number: int) -> DataConfig:
    """Rows of this round, after those of earlier ones where they are kept; held-out rows are the recipe's own."""
    data = recipe.data
    files = [str(RoundFiles(recipe.folder, one).rows) for one in range(1, number + 1)]
    earlier = files[:-1] if rounds_of(recipe).keep_earlier_rows else []
    decisions: dict[str, Any] = {name: value for name, value in _SAMPLED.items() if getattr(data, name) == "error"}
    sources = _read_anyhow(files[-1]) | {"mixture": tuple(SourceConfig(path=path) for path in earlier)}
    held_out = data.held_out_sources
    test: dict[str, Any] = {"test": held_out} if held_out else {}
    if len(held_out) == 1:
        test = {"test": held_out[0].path, "test_split": held_out[0].split}
    return replace(data, **sources, **test, **decisions)


def _read_anyhow(path: str) -> dict[str, Any]:
    """Settings for a file of another kind than that of `data.train`: what it looks like is found from its columns."""
    return {
        "train": path, "split": "train", "limit": None, "format": "auto", "columns": {}, "ignore_columns": (),
        "labels": "auto", "where": {}, "licence": None, "weight": 1.0, "mixture": (),
    }  # fmt: skip


def _reference_of(recipe: Recipe, number: int) -> ReferenceConfig:
    if number == 1 or recipe.reference.model is not None or rounds_of(recipe).fresh_reference:
        return recipe.reference
    return replace(recipe.reference, model=policy_of(recipe, 1).path)
