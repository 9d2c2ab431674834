"""`exptilt train`: from rows to a measured model, in one folder, resumable at any moment."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from rich.console import Console

from exptilt.data.prepared import refused
from exptilt.errors import ConfigError
from exptilt.evaluation.held_out import Wanted, detectable_line, measure_policy
from exptilt.evaluation.held_out_scores import measure_reward_model
from exptilt.in_memory import from_memory, is_in_memory
from exptilt.policies.device import model_on_device
from exptilt.policies.models import load_model
from exptilt.processes.interrupt import losing_no_process
from exptilt.processes.launch import joined
from exptilt.processes.surroundings import left_as_found
from exptilt.processes.world import World
from exptilt.reports.model_card import write_card
from exptilt.reports.page import write_report
from exptilt.run_folder.file_names import EVALUATION, SAMPLES, margins_of
from exptilt.run_folder.folder import RunFolder
from exptilt.runs.identity import is_finished
from exptilt.runs.merged_base import write_base_if_needed
from exptilt.runs.run_inputs import inputs_of
from exptilt.runs.run_models import TRAINED, reference_model
from exptilt.runs.run_rollouts import wanted_online
from exptilt.runs.run_rows import check_phases
from exptilt.runs.run_start import Outcome, started
from exptilt.runs.run_tokenizer import find_tokenizer
from exptilt.runs.session import Session, open_session
from exptilt.settings.recipe import Recipe
from exptilt.training.callbacks.callback import Callback


def run_recipe(
    recipe: Recipe,
    console: Console | None = None,
    *,
    page: bool = True,
    callbacks: Sequence[Callback] = (),
    measures: bool = True,
) -> Outcome:
    """Train, measure and report by a recipe, in this process or in all that torchrun started.

    A second call after an interruption continues the run; after the end it does nothing. The first process measures the
    saved model; the other processes have ended by then. The process is left as it was: its
    precision, random generators, signal handlers, threads and logging (`processes.surroundings`).

    Objects of a program take part under names: models and tokenizers of `policies.models_in_memory`, rows of
    `data.read.rows_in_memory`. The caller keeps them in `in_memory.holding` around this call.

    Args:
        recipe: the run.
        console: console for messages; default, standard error.
        page: whether to write the report.
        callbacks: your own, beside those of the recipe (docs/callbacks.md); not called in its supervised phase.
        measures: whether the saved model is measured on the held-out rows. A model trained in place cannot be: its start
            is gone.

    Raises:
        ExptiltError: data cannot be used, the model is no model, or a loss is not finite; the message is for a person.
    """
    if recipe.rounds is not None:
        raise ConfigError("rounds: this recipe is several runs; `exptilt train` or run_rounds runs them")
    _require_held(recipe)
    with left_as_found(), ExitStack() as held:
        # The folder stays ours until the report is written, when the other processes have left.
        with joined(recipe.parallel) as world, losing_no_process(world):
            console = (console or Console(stderr=True)) if world.is_first else Console(quiet=True)
            outcome, session = _run(recipe, console, world, held, callbacks)
        if session is not None and outcome.finished and world.is_first:
            _finish(session, console, page, measures)
    return outcome


def _require_held(recipe: Recipe) -> None:
    """Refuse a recipe with objects in memory that this process does not have, before its folder is touched."""
    for key, path in inputs_of(recipe).items():
        if is_in_memory(path):
            try:
                from_memory(path)
            except ConfigError as error:
                raise ConfigError(f"{key}: {error}") from None


def _run(
    recipe: Recipe, console: Console, world: World, held: ExitStack, callbacks: Sequence[Callback] = ()
) -> tuple[Outcome, Session | None]:
    """Train by a recipe, its supervised phase first; the session is None if nothing was left to do.

    The run folders stay held by `held`.
    """
    folder = RunFolder(recipe.folder, writes=world.is_first)
    goes_on = recipe.train.resume != "never"
    if world.first(world.first_alone(lambda: goes_on and is_finished(folder, recipe))):
        console.print(f"{folder.path}: this run is finished; its model is in {folder.model}")
        return Outcome(folder, folder.run.steps or 0, finished=True), None
    world.first_alone(lambda: held.enter_context(started(recipe, folder, world.size, console)))
    recipe = write_base_if_needed(recipe, world, console)
    if recipe.sft is not None:
        world.first_alone(partial(_refuse_phases, recipe), patient=True)
        try:
            first, session = _run(recipe.sft_recipe(), console, world, held)
        finally:
            _take_over_warnings(recipe, folder)
        if not first.finished:
            folder.update_manifest(status="stopped")
            return Outcome(folder, 0, finished=False), None
        if session is not None:
            _close(session)
        recipe = recipe.after_sft(first.folder.model)
    session = open_session(recipe, folder, console, world, callbacks)
    progress = session.train()
    return Outcome(folder, progress.step, progress.is_last, session.models.policy), session


def _take_over_warnings(recipe: Recipe, folder: RunFolder) -> None:
    """Put the warnings of the supervised phase into the run's own record: its model is the start and the reference."""
    of_phase = RunFolder(recipe.sft_recipe().folder, writes=False).run
    folder.update_manifest(warnings=folder.run.warnings_with_phase("sft", of_phase))


def _refuse_phases(recipe: Recipe) -> None:
    """Refuse rows that the last phase cannot use before the first phase trains for hours."""
    first = recipe.sft_recipe()
    if not is_finished(RunFolder(first.folder, writes=False), first):
        for phase in check_phases(recipe, find_tokenizer(recipe.model, recipe.data)):
            refused(phase.rows)


def _finish(session: Session, console: Console, page: bool, measures: bool) -> None:
    """Measure the saved model if wanted, and tell where the files are."""
    folder = session.folder
    if measures:
        _measure(session)
    _close(session)
    write_card(folder)
    console.print(f"model: {folder.model}", soft_wrap=True, highlight=False)
    if page:
        console.print(f"report: {write_report([folder.path])}", soft_wrap=True, highlight=False)


def _close(session: Session) -> None:
    session.folder.update_manifest(status="done", finished=datetime.now(UTC).isoformat(timespec="seconds"))


def _measure(session: Session) -> None:
    """Write evaluation.json, its margins and samples.jsonl, against the reference the run had throughout."""
    recipe, folder, tokenizer, held_out = session.recipe, session.folder, session.tokenizer, session.rows.test
    if not held_out or recipe.loss.kind.imitates:  # SFT makes the reference: it has none
        return
    if recipe.rollout is None:
        session.console.print(detectable_line(held_out, recipe.evaluate.level), soft_wrap=True, highlight=False)
    saved = replace(recipe.model, path=str(folder.model), config=None, revision=None)
    model = model_on_device(load_model(saved, tokenizer, head=TRAINED[recipe.loss.kind.reads]))
    wanted = Wanted.of(session.objective.loss, recipe.evaluate, recipe.batch.at_once, recipe.seed)
    if session.rollouts is not None:
        online = session.rollouts
        wanted = wanted_online(recipe, session.objective.loss, online.maker.reward, online.held_out)
        held_out = [one.group for one in online.held_out]
    if recipe.loss.kind.scores:
        measured = measure_reward_model(model, held_out, wanted)
    else:
        reference = partial(reference_model, recipe, tokenizer)
        measured = measure_policy(model, reference, tokenizer, held_out, session.table, wanted)
    if measured.evaluation.model_fields_set:
        folder.write(EVALUATION, measured.evaluation)
    if measured.samples:
        folder.write_lines(SAMPLES, measured.samples)
    if measured.margins:
        folder.write_lines(margins_of(), measured.margins)
