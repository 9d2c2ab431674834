"""`exptilt train`: train by a recipe, and print the result."""

from __future__ import annotations

from rich.console import Console

from exptilt.reports.tables.evaluation_table import print_summary
from exptilt.reports.tables.mask_table import print_masks
from exptilt.reports.tables.rounds_table import rounds_table
from exptilt.runs.mask_run import run_masks
from exptilt.runs.rounds.run_rounds import run_rounds
from exptilt.runs.run_recipe import run_recipe
from exptilt.settings.any_recipe import AnyRecipe
from exptilt.settings.mask_settings import MaskRecipe


def train(recipe: AnyRecipe, command: str) -> None:
    """Train, measure and report; print the numbers, or the command that continues after a stop.

    Args:
        recipe: recipe of the run.
        command: the command the user typed, to be repeated after a stop.

    A recipe with `rounds` samples, labels and trains that often; see `run_rounds`.
    """
    if isinstance(recipe, MaskRecipe):
        _train_masks(recipe, command)
        return
    if recipe.rounds is not None:
        outcome = run_rounds(recipe)
        Console().print(rounds_table(outcome.folder.run))
        print(f"model: {outcome.folder.model}")
        return
    outcome = run_recipe(recipe)
    if not outcome.folder.writes:  # another process of the run prints
        return
    if outcome.finished:
        print_summary(outcome.folder)
    else:
        print(f"stopped at step {outcome.step}; to go on: {command}")


def _train_masks(recipe: MaskRecipe, command: str) -> None:
    outcome = run_masks(recipe)
    if outcome.folder.writes and outcome.finished:
        print_masks(outcome.folder)
    elif outcome.folder.writes:
        print(f"stopped at step {outcome.step}; to go on: {command}")
