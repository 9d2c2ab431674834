"""`exptilt train`: train by a recipe, and print the result."""

from __future__ import annotations

from exptilt.reports.tables.evaluation_table import print_summary
from exptilt.reports.tables.mask_table import print_masks
from exptilt.runs.mask_run import run_masks
from exptilt.runs.run_recipe import run_recipe
from exptilt.settings.any_recipe import AnyRecipe
from exptilt.settings.mask_settings import MaskRecipe


def train(recipe: AnyRecipe, command: str) -> None:
    """Train, measure and report; print the numbers, or the command that continues after a stop.

    Args:
        recipe: recipe of the run.
        command: the command the user typed, to be repeated after a stop.
    """
    masks = isinstance(recipe, MaskRecipe)
    outcome = run_masks(recipe) if isinstance(recipe, MaskRecipe) else run_recipe(recipe)
    if not outcome.folder.writes:  # another process of the run prints
        return
    if outcome.finished:
        (print_masks if masks else print_summary)(outcome.folder)
    else:
        print(f"stopped at step {outcome.step}; to go on: {command}")
