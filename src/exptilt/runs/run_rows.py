"""The rows of a run: prepared, checked with the model, and counted in data.json."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from exptilt.data.batching import Batches, budget_use
from exptilt.data.prepare import Prepared, prepare
from exptilt.losses import Loss
from exptilt.policies.engine.forward import context_length
from exptilt.processes.allocator import given_back
from exptilt.processes.world import World
from exptilt.runs.checks.ches_filter import leave_out_displacing
from exptilt.runs.checks.familiarity import check_reference
from exptilt.settings.recipe import Recipe

_FILL_STEPS = 50
"""Steps over which it is counted how full micro-batches are."""


def rows_of(recipe: Recipe, loss: Loss, model: Any, tokenizer: Any, world: World) -> Prepared:
    """Rows as a run trains on them, and the account of every row.

    Args:
        recipe: says where rows are and how they are batched.
        loss: the objective, which decides what kind of rows is wanted.
        model: the weights training starts from; it says how long a row may be, and what it knows of such text.
        tokenizer: of the model.
        world: the processes that share the run; the first prepares, the others find its work in the cache.
    """
    kind = loss.kind
    rows = world.first_before_others(lambda: prepare(recipe.data, tokenizer, kind, context_length(model)))
    rows = leave_out_displacing(model, rows, recipe.data.drop_highest_ches, kind=kind)
    if kind.is_paired and recipe.reference.model is None:
        with given_back():
            finding = check_reference(model, tokenizer, rows, seed=recipe.seed)
        rows = replace(rows, report=rows.report.adding(finding))
    if recipe.batch.limit is not None:
        batches = Batches(rows.train, recipe.batch, seed=recipe.seed)
        first_steps = (batches.step(step) for step in range(min(_FILL_STEPS, batches.num_steps)))
        use = budget_use(first_steps, recipe.batch.limit)
        rows = replace(rows, report=rows.report.adding(use.finding()))
    return rows
