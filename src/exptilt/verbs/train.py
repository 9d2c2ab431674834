"""`exptilt train`: a run by a recipe, and what it came to."""

from __future__ import annotations

from exptilt.reports.tables.evaluation_table import print_summary
from exptilt.runs.run_recipe import run_recipe
from exptilt.settings.recipe import Recipe


def train(recipe: Recipe, command: str) -> None:
    """Train, measure and report; print the numbers, or how to go on after a stop.

    Args:
        recipe: of the run.
        command: what the user typed, to be typed again after a stop.
    """
    outcome = run_recipe(recipe)
    if not outcome.folder.writes:  # another process of the run speaks
        return
    if outcome.finished:
        print_summary(outcome.folder)
    else:
        print(f"stopped at step {outcome.step}; to go on: {command}")
