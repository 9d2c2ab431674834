"""The phases of a plan: how many steps, and what their time is spent on."""

from __future__ import annotations

import math
from dataclasses import dataclass

from exptilt.recipes.plan_data import Rows
from exptilt.recipes.plan_probe import Costs
from exptilt.recipes.plan_work import Load
from exptilt.recipes.recipe import Recipe

_DRAWN_AT_ONCE = 256
_LOOKED_AT = 2000
"""Held-out rows whose lengths are counted."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One run of the loop: the supervised phase, or the training itself."""

    name: str
    rows: int
    steps: int
    tokens: float
    """Unique tokens fed in a step, over all devices."""
    micro_batches: int
    """In a step, on each device."""
    flops: float
    """Of a step, over all devices."""
    step_seconds: float
    seconds: dict[str, float]
    """By what they are spent on."""


def steps_of(recipe: Recipe, rows: int) -> int:
    """Optimizer steps of a run on so many rows.

    Example:
        >>> from exptilt.config import load
        >>> run = load(Recipe, None, ["output=runs/a", "model.path=m", "data.train=t.jsonl", "train.epochs=1.5"])
        >>> run.batch.size, steps_of(run, rows=100)  # two steps a pass, the second a short one
        (64, 3)
    """
    steps = max(1, round(recipe.train.epochs * math.ceil(rows / recipe.batch.size)))
    return min(steps, recipe.train.max_steps or steps)


def seconds_of(recipe: Recipe, costs: Costs, training: float, rows: Rows, load: Load) -> dict[str, float]:
    """What a phase spends its time on.

    Args:
        recipe: of the phase.
        costs: of a token, for all devices together.
        training: seconds of all its steps.
        rows: how many there are.
        load: of one step.
    """
    spent = {"training": training}
    some = rows.test[:_LOOKED_AT]
    held_out = Load.of(some).tokens / len(some) * rows.num_test if len(some) else 0.0
    if recipe.loss.needs_reference and not recipe.reference.move_every:
        spent["reference, once"] = _scoring(recipe, costs, load.tokens / load.groups * rows.num_train + held_out)
    if not len(some):
        return spent
    final = recipe.loss.name != "sft"
    every = recipe.train.eval_every
    between = (steps_of(recipe, rows.num_train) - 1) // every if every else 0
    spent["held-out loss"] = (2 + between + final) * _scoring(recipe, costs, held_out)
    length = recipe.evaluate.max_new_tokens
    drawn = between * costs.drawing(min(recipe.train.eval_samples, rows.num_test), length)
    if final:
        count = min(recipe.evaluate.num_prompts, rows.num_test) * recipe.evaluate.num_samples
        batches = math.ceil(count / _DRAWN_AT_ONCE)
        drawn += 2 * batches * costs.drawing(min(count, _DRAWN_AT_ONCE), length)  # of the policy and of the reference
    if drawn:
        spent["samples (roughly)"] = drawn
    return spent


def _scoring(recipe: Recipe, costs: Costs, tokens: float) -> float:
    return costs.forward.seconds(tokens, math.ceil(tokens / recipe.batch.at_once))
