"""Held-out metrics of a model in memory, over all rows at once, as a run forms them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from exptilt.data.groups import Group
from exptilt.data.prepared import prepare
from exptilt.in_memory import from_memory, holding, is_in_memory
from exptilt.losses.from_choice import build_loss
from exptilt.policies.adapters import AdapterOff, has_adapter
from exptilt.policies.device import model_on_device
from exptilt.policies.engine.forward import context_length
from exptilt.policies.reference.other import load_reference
from exptilt.policies.reward_scorer import scores_of_groups
from exptilt.policies.scoring import score_all
from exptilt.processes.surroundings import left_as_found
from exptilt.runs.run_tokenizer import find_tokenizer
from exptilt.settings.recipe import Recipe
from exptilt.training.objective import Objective
from exptilt.trl.log_history import evaluation_logs
from exptilt.trl.trainer_recipe import TrainerRecipe
from exptilt.types import LogProbs


def held_out_metrics(start: TrainerRecipe, prefix: str) -> dict[str, float]:
    """Measure the model of a trainer on the held-out rows of its recipe.

    The reference is another model, if the recipe names one; of a model with an adapter the model without it; else the model
    itself, which has not moved.

    Args:
        start: the recipe, and the objects it names.
        prefix: begin of the names of metrics.
    """
    recipe = start.recipe
    with holding(*start.held), left_as_found():
        model = from_memory(str(recipe.model.path)).content
        was_training, device = model.training, next(model.parameters()).device
        objective = Objective(build_loss(recipe.loss))
        tokenizer = find_tokenizer(recipe.model, recipe.data)
        rows = prepare(recipe.data, tokenizer, objective.loss.kind, context_length(model)).test
        groups = objective.prepare(rows)
        moved = model_on_device(model)
        policy = _logps(moved, groups, recipe, objective.loss.byproducts)
        reference = _reference(recipe, moved, tokenizer)
        anchor = policy if reference is moved else None if reference is None else _logps(reference, groups, recipe)
        with torch.no_grad():
            means = objective(groups, policy, anchor).sums.means("eval/")
        model.to(device).train(was_training)
    return evaluation_logs(means, prefix)


def _reference(recipe: Recipe, model: Any, tokenizer: Any) -> Any:
    if not build_loss(recipe.loss).needs_reference:
        return None
    if is_in_memory(recipe.reference.model):
        return model_on_device(from_memory(recipe.reference.model).content)
    if recipe.reference.model is not None:
        return model_on_device(load_reference(recipe.model, recipe.reference.model, tokenizer))
    return AdapterOff(model) if has_adapter(model) else model


def _logps(model: Any, groups: Sequence[Group], recipe: Recipe, byproducts: Sequence[str] = ()) -> LogProbs:
    if recipe.loss.kind.scores:
        scores = torch.cat(scores_of_groups(model, groups, max_tokens=recipe.batch.at_once))
        return LogProbs(values=scores, lengths=torch.ones(len(scores), dtype=torch.int64))
    return LogProbs.cat(score_all(model, groups, max_tokens=recipe.batch.at_once, byproducts=byproducts))
