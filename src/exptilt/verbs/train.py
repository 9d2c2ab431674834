"""`exptilt train`: train by a recipe, and print the result."""

from __future__ import annotations

from rich.console import Console

from exptilt.reports.tables.evaluation_table import print_summary
from exptilt.reports.tables.mask_table import mask_rounds_table, print_masks
from exptilt.reports.tables.rounds_table import rounds_table
from exptilt.runs.mask_run import run_masks
from exptilt.runs.rounds.run_rounds import run_rounds
from exptilt.runs.run_recipe import run_recipe
from exptilt.runs.run_start import Outcome
from exptilt.settings.any_recipe import AnyRecipe
from exptilt.settings.mask_settings import MaskRecipe


def train(recipe: AnyRecipe, command: str) -> None:
    """Train, measure and report; print the numbers, or the command that continues after a stop.

    Args:
        recipe: recipe of the run.
        command: the command the user typed, to be repeated after a stop.

    A recipe with `rounds` samples, labels and trains that often; see `run_rounds`.
    """
    if recipe.rounds is not None:
        _show_rounds(run_rounds(recipe), recipe)
        return
    outcome = run_masks(recipe) if isinstance(recipe, MaskRecipe) else run_recipe(recipe)
    if not outcome.folder.writes:  # another process of the run prints
        return
    if not outcome.finished:
        print(f"stopped at step {outcome.step}; to go on: {command}")
    elif isinstance(recipe, MaskRecipe):
        print_masks(outcome.folder)
    else:
        print_summary(outcome.folder)


def _show_rounds(outcome: Outcome, recipe: AnyRecipe) -> None:
    if isinstance(recipe, MaskRecipe):
        Console().print(mask_rounds_table(outcome.folder))
        print_masks(outcome.folder)
    else:
        Console().print(rounds_table(outcome.folder.run))
    print(f"model: {outcome.folder.model}")
