"""The measurement of a model that belongs to no run, on rows of a recipe; and the parts it shares with that of a run's model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from rich.console import Console

from exptilt.data.account.data_terminal import print_report
from exptilt.data.groups import Group
from exptilt.data.prepared import Prepared, prepare
from exptilt.evaluation.held_out import HeldOutMeasures, Wanted, detectable_line, measure_policy
from exptilt.evaluation.held_out_scores import measure_reward_model
from exptilt.kinds import Kind
from exptilt.losses.from_choice import build_loss
from exptilt.policies.adapters import base_of, find_adapter
from exptilt.policies.device import model_on_device
from exptilt.policies.engine.forward import context_length
from exptilt.policies.engine.self_check import packable
from exptilt.policies.models import load_model, load_tokenizer
from exptilt.policies.reference.references import START, TableReference, table_reference
from exptilt.processes.world import World
from exptilt.runs.run_models import TRAINED, reference_model
from exptilt.runs.run_rows import prompts_of_run
from exptilt.settings.model_settings import ModelConfig
from exptilt.settings.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class MeasuredModel:
    """What was measured of a model, on which rows, against what."""

    recipe: Recipe
    """With the reference that was taken."""
    rows: Prepared
    measures: HeldOutMeasures
    table: TableReference | None
    """The reference's log-probabilities; None where there is no reference."""


def measure_model(
    recipe: Recipe, *, has_beta: bool = False, console: Console | None = None, notes: Console | None = None
) -> MeasuredModel:
    """Measure the model of a recipe on its rows: those of `data.test`, else of `data.train`.

    An adapter is measured against its base, another model against the one `reference.model` names, or without one.

    Args:
        recipe: names the model, the rows and the reference.
        has_beta: whether the objective was chosen; else log-ratios stand for implicit rewards.
        console: for what is said of the measurement; default, standard output.
        notes: for the account of the rows; default, standard error.

    Raises:
        ExptiltError: there is no such model, there are no rows, or the rows are no pairs.
    """
    console = console or Console()
    model, tokenizer = loaded(recipe.model, recipe.loss.kind)
    rows = measured_rows(recipe, model, tokenizer, notes)
    held_out = list(rows.test or rows.train)
    console.print(detectable_line(held_out, recipe.evaluate.level), highlight=False, soft_wrap=True)
    wanted = Wanted.of(build_loss(recipe.loss), recipe.evaluate, recipe.batch.at_once, recipe.seed, has_beta=has_beta)
    if recipe.loss.kind.scores:
        return MeasuredModel(
            recipe=recipe, rows=rows, measures=measure_reward_model(model, held_out, wanted), table=None
        )
    recipe = _against_its_base(recipe)
    start = None if recipe.reference.model is None else partial(reference_model, recipe, tokenizer)
    table = None if start is None else reference_table(recipe, start(), held_out)
    if start is None:
        console.print("no reference: name one with --reference to measure KL, log-ratios and displacement")
    measures = measure_policy(model, start, tokenizer, held_out, table, wanted)
    return MeasuredModel(recipe=recipe, rows=rows, measures=measures, table=table)


def _against_its_base(recipe: Recipe) -> Recipe:
    """The recipe with the base of an adapter as the reference, where no other is named."""
    adapter = find_adapter(str(recipe.model.path), recipe.model.revision)
    if recipe.reference.model is not None or adapter is None:
        return recipe
    return replace(recipe, reference=replace(recipe.reference, model=base_of(adapter)))


def loaded(where: ModelConfig, kind: Kind) -> tuple[Any, Any]:
    """The model on this process's device, and its tokenizer: its own, or that of an adapter's base."""
    tokenizer = load_tokenizer(where)
    model = model_on_device(load_model(where, tokenizer, head=TRAINED[kind.reads]))
    if kind.scores:
        return model, tokenizer
    packable(model)  # a model that is not causal is refused before rows are read
    return model, tokenizer


def measured_rows(recipe: Recipe, model: Any, tokenizer: Any, notes: Console | None = None) -> Prepared:
    """The rows; ties, which measuring leaves out of accuracies and counts, are refused only where training would be."""
    data = replace(recipe.data, on_tie="keep") if recipe.data.on_tie == "error" else recipe.data
    if recipe.rollout is not None:
        rows = prompts_of_run(recipe, tokenizer, World.alone())
    else:
        rows = prepare(data, tokenizer, recipe.loss.kind, context_length(model))
    print_report(rows.report, notes or Console(stderr=True))
    return rows


def reference_table(recipe: Recipe, reference: Any, held_out: Sequence[Group]) -> TableReference:
    """Log-probabilities of held-out rows under a reference."""
    named, max_tokens = recipe.reference.model, recipe.batch.at_once
    return table_reference(
        reference, held_out, source=named or START, cache=recipe.reference.cache, max_tokens=max_tokens
    )
