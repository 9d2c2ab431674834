"""A base of its own for a new adapter: where the adapter that a run starts from cannot stay beside it, or no folder has the base."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from exptilt.errors import ModelError
from exptilt.in_memory import from_memory, is_in_memory
from exptilt.policies.adapters import has_adapter
from exptilt.policies.engine.forward import causal_lm
from exptilt.policies.fingerprint import fingerprint
from exptilt.policies.model_heads import head_of
from exptilt.policies.models import load_model, load_tokenizer
from exptilt.policies.saving import save_model
from exptilt.policies.start import why_merged, write_merged_base
from exptilt.processes.world import World
from exptilt.run_folder.file_names import MERGED_BASE
from exptilt.runs.run_models import HEADS
from exptilt.settings.model_settings import ModelConfig
from exptilt.settings.recipe import Recipe


def write_base_if_needed(recipe: Recipe, world: World, console: Console) -> Recipe:
    """Write a base into the run folder, if the new adapter could not be loaded on any other.

    This is the adapter in `model.path` merged into its base, if no single adapter could hold it and the new one; or a model
    in memory that no folder or hub id holds.

    The new adapter is then saved on that base, so both folders are needed to load it. A base that is there already, of the
    same run, is used as it is.

    Args:
        recipe: recipe of the whole run.
        world: the processes that share it; the first merges.
        console: console for messages.

    Returns:
        The recipe from that base on; the recipe as it is where nothing had to be merged.

    Raises:
        ModelError: the adapter cannot be merged.
    """

    def write() -> None:
        folder, why = recipe.folder / MERGED_BASE, why_merged(recipe.model, recipe.adapter)
        if is_in_memory(recipe.model.path) and recipe.adapter is not None:
            if recipe.adapter.path is None:
                _write_held_base(recipe.model, folder, console)
            else:
                _require_named_base(recipe.model.path)
        if not why or folder.is_dir():
            return
        with torch.random.fork_rng(devices=[]):
            difference = write_merged_base(recipe.model, folder, HEADS[recipe.loss.kind.reads])
        console.print(
            f"{why}, so it cannot stay beside a new one: merged into its base in float32 (log-probabilities differ by "
            f"{difference:.1e} nats at most) and written to {folder}, the base of the new adapter",
            soft_wrap=True,
            highlight=False,
        )

    world.first_alone(write, patient=True)
    return from_merged_base(recipe)


def _write_held_base(settings: ModelConfig, folder: Path, console: Console) -> None:
    """Save a model in memory as the base of its adapter, unless the folder or hub id it was loaded from holds the same weights."""
    held = from_memory(str(settings.path))
    inner = causal_lm(held.content)
    if folder.is_dir() or has_adapter(held.content) or (held.in_place and inner.name_or_path):
        return
    if not held.in_place and _is_saved(inner):
        return
    save_model(inner, load_tokenizer(settings), folder)
    if held.in_place:
        inner.name_or_path = str(folder.resolve())
    words = (
        f"the model was given as an object that no folder holds; it is saved in {folder}, the base of the new adapter"
    )
    console.print(words, soft_wrap=True, highlight=False)


def _require_named_base(name: str) -> None:
    """Refuse to train the adapter of a model in memory further, if nobody could load the result: its base has no name.

    Raises:
        ModelError: its base has none, and it is not trained in place, where the program still holds the base.
    """
    held = from_memory(name)
    settings = held.content.peft_config["default"]
    if not (held.in_place or settings.base_model_name_or_path):
        raise ModelError(
            f"{held.what}: its adapter names no base, so what is trained could not be loaded again; save the base, load it with "
            "from_pretrained, and put the adapter on that"
        )


def _is_saved(model: Any) -> bool:
    """Whether the folder or hub id that a model names holds its weights."""
    if not model.name_or_path:
        return False
    try:
        saved = load_model(ModelConfig(path=str(model.name_or_path), dropout=None), head=head_of(model))
    except ModelError:
        return False
    return fingerprint(saved) == fingerprint(model)


def from_merged_base(recipe: Recipe) -> Recipe:
    """The recipe from the merged base of its run folder on; the recipe as it is where there is none."""
    base = recipe.folder / MERGED_BASE
    if recipe.adapter is None or not base.is_dir():
        return recipe
    if is_in_memory(recipe.model.path) and from_memory(recipe.model.path).in_place:
        return recipe
    return replace(recipe, model=replace(recipe.model, path=str(base), revision=None))
