"""A base of its own for a new adapter, where the adapter that a run starts from cannot stay beside it."""

from __future__ import annotations

from dataclasses import replace

import torch
from rich.console import Console

from exptilt.policies.start import why_merged, write_merged_base
from exptilt.processes.world import World
from exptilt.run_folder.file_names import MERGED_BASE
from exptilt.runs.run_models import HEADS
from exptilt.settings.recipe import Recipe


def write_base_if_needed(recipe: Recipe, world: World, console: Console) -> Recipe:
    """Merge the adapter in `model.path` into a base in the run folder, if no single adapter could hold it and the new one.

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


def from_merged_base(recipe: Recipe) -> Recipe:
    """The recipe from the merged base of its run folder on; the recipe as it is where there is none."""
    base = recipe.folder / MERGED_BASE
    if recipe.adapter is None or not base.is_dir():
        return recipe
    return replace(recipe, model=replace(recipe.model, path=str(base), revision=None))
