"""The rows of a run: prepared, checked with the model, and counted in data.json."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from exptilt.data.prepared import Prepared, prepare
from exptilt.data.problems import finding_of
from exptilt.data.splits import refuse_errors
from exptilt.errors import ConfigError, DataError
from exptilt.kinds import PROMPT
from exptilt.losses import Loss
from exptilt.losses.from_choice import build_loss
from exptilt.online.rollout_prompts import rollout_prompts
from exptilt.policies.architecture import declared_context
from exptilt.processes.allocator import given_back
from exptilt.processes.world import World
from exptilt.runs.checks.ches_filter import leave_out_displacing
from exptilt.runs.checks.familiarity import check_reference
from exptilt.runs.run_batches import check_batches
from exptilt.runs.run_inputs import prompt_data
from exptilt.settings.recipe import Recipe


def rows_of(recipe: Recipe, tokenizer: Any, world: World) -> Prepared:
    """Prepare the rows that a run trains on, and the account of every row, before any weight is read.

    Args:
        recipe: says where rows are, and which model says how long they may be.
        tokenizer: tokenizer of the model.
        world: the processes that share the run; the first prepares, the others find its work in the cache.
    """
    if recipe.rollout is not None:
        return prompts_of_run(recipe, tokenizer, world)
    context = declared_context(recipe.model, tokenizer)
    return world.first_before_others(lambda: prepare(recipe.data, tokenizer, recipe.loss.kind, context))


def checked_with_model(recipe: Recipe, rows: Prepared, loss: Loss, model: Any, tokenizer: Any) -> Prepared:
    """Check prepared rows with the model, leave out those that would displace, and see whether batches can be made.

    Args:
        recipe: says how they are batched.
        rows: as `rows_of` prepared them.
        loss: the objective.
        model: the weights training starts from, and what they know of such text.
        tokenizer: tokenizer of the model.
    """
    if recipe.rollout is not None:
        return rows
    kind = loss.kind
    rows = leave_out_displacing(model, rows, recipe.data.drop_highest_ches, kind=kind)
    if kind.is_paired and kind.has_reference and recipe.reference.model is None:
        with given_back():
            finding = check_reference(model, tokenizer, rows, seed=recipe.seed)
        rows = replace(rows, report=rows.report.adding(finding))
    findings = check_batches(loss, rows.train, rows.test, recipe.batch, recipe.train, seed=recipe.seed)
    refuse_errors(findings)
    return replace(rows, report=rows.report.adding(*findings))


def prompts_of_run(recipe: Recipe, tokenizer: Any, world: World) -> Prepared:
    """Prepare the prompts of an online run, each once; those that leave no room for a completion are too long.

    Raises:
        DataError: prompts cannot be used.
    """
    data = prompt_data(recipe)
    limit = room_for_prompts(recipe, declared_context(recipe.model, tokenizer))
    return world.first_before_others(lambda: prepare(data, tokenizer, PROMPT, limit))


def room_for_prompts(recipe: Recipe, context: int | None) -> int | None:
    """Most tokens of a prompt, so that its completion fits behind it.

    Raises:
        ConfigError: the context is too short for the completion alone.
    """
    if context is None or recipe.rollout is None:
        return context
    room = context - recipe.rollout.law.max_new_tokens
    if room < 1:
        raise ConfigError(
            f"rollout.law.max_new_tokens={recipe.rollout.law.max_new_tokens} leaves no room for a prompt in the model's context of "
            f"{context} tokens; lower it"
        )
    return room


def check_phases(recipe: Recipe, tokenizer: Any) -> tuple[Phase, ...]:
    """Check the rows of all phases, the supervised one first, without a model and without refusing any of them.

    Args:
        recipe: recipe of the whole run.
        tokenizer: tokenizer of the starting model; None limits the checks to text.
    """
    phases = [*([recipe.sft_recipe()] if recipe.sft is not None else []), replace(recipe, sft=None)]
    context = declared_context(recipe.model, tokenizer) if tokenizer is not None else None
    checked = []
    for phase in phases:
        loss = build_loss(phase.loss)
        if phase.rollout is not None:
            checked.append(Phase(name=loss.name, rows=_checked_prompts(phase, tokenizer, context)))
            continue
        rows = prepare(phase.data, tokenizer, loss.kind, context, strict=False)
        findings = check_batches(loss, rows.train, rows.test, phase.batch, phase.train, seed=phase.seed)
        rows = replace(rows, report=rows.report.adding(*findings))
        checked.append(Phase(name="sft" if phase is not phases[-1] else loss.name, rows=rows))
    return tuple(checked)


def _checked_prompts(recipe: Recipe, tokenizer: Any, context: int | None) -> Prepared:
    """The prompts of an online run, none of them refused."""
    rows = prepare(prompt_data(recipe), tokenizer, PROMPT, room_for_prompts(recipe, context), strict=False)
    try:
        rollout_prompts(
            prompt_data(recipe), (rows.train,), take_prompts=recipe.rollout is None or recipe.rollout.take_prompts
        )
    except DataError as error:
        rows = replace(rows, report=rows.report.adding(finding_of("unformed_batch", str(error), 1)))
    return rows


@dataclass(frozen=True, kw_only=True)
class Phase:
    """The rows of one phase of a run."""

    name: str
    rows: Prepared
