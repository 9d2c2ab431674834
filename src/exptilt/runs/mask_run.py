"""A run on masks: the same loop, objective, checkpoints and run folder, with a segmenter as the scorer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

import torch
from rich.console import Console

from exptilt.data.batching import Batches, shares
from exptilt.data.groups import Group, digest_of
from exptilt.data.masks.mask_checks import PreparedMasks, prepare_masks, refused_masks
from exptilt.data.masks.mask_set import MaskSet, Palette
from exptilt.data.mixing import TwoOf
from exptilt.disk import write_whole
from exptilt.errors import ConfigError, DataError, TrainingError
from exptilt.evaluation.masks.mask_evaluation import evaluate_masks
from exptilt.evaluation.masks.mask_pictures import picture_of
from exptilt.losses import Loss
from exptilt.losses.from_choice import build_loss
from exptilt.policies.segmenters.mask_scorer import CountedPixels, MaskScorer, MaskTable, with_distribution
from exptilt.policies.segmenters.segmenter import Segmenter
from exptilt.policies.segmenters.segmenter_files import (
    channels_of,
    freeze_all_but_biases,
    load_segmenter,
    save_segmenter,
)
from exptilt.processes.interrupt import losing_no_process
from exptilt.processes.launch import joined
from exptilt.processes.surroundings import left_as_found
from exptilt.processes.world import World
from exptilt.reports.mask_page import write_mask_report
from exptilt.run_folder.file_names import DATA, MASK_EVALUATION, METRICS, PICTURES
from exptilt.run_folder.folder import RunFolder
from exptilt.run_folder.mask_evaluation_record import MaskEvaluation
from exptilt.run_folder.run_record import ReferenceIdentity
from exptilt.runs.checks.stop_conditions import refuse_impossible
from exptilt.runs.identity import defaults_of, identity, is_finished
from exptilt.runs.run_batches import steps_in
from exptilt.runs.run_callbacks import own_callbacks
from exptilt.runs.run_start import started
from exptilt.settings.data_settings import BatchConfig
from exptilt.settings.declaration import as_dict
from exptilt.settings.mask_settings import MaskRecipe
from exptilt.training.callbacks.callback import Callback, Progress
from exptilt.training.callbacks.log import Evaluate, Log, LogMetrics
from exptilt.training.callbacks.progress_bar import ShowProgress
from exptilt.training.callbacks.trackers import Trackers
from exptilt.training.guards.measured_names import measured_names
from exptilt.training.guards.stop_if import StopIf
from exptilt.training.loop import train
from exptilt.training.objective import Objective
from exptilt.training.optim import build_optimizer, build_schedule
from exptilt.training.run import Run
from exptilt.training.sums import Sums
from exptilt.types import LogProbs

_START = "the weights this run starts from"
_PICTURES = 6
"""Held-out rows that are drawn."""
_STEP_ZERO = 1e-4
"""Nats a pixel by which policy and reference may differ before step 1."""


def _as_it_is(group: Group[Any]) -> Group[Any]:
    return group


@dataclass(frozen=True)
class MaskOutcome:
    """The state of a run when `run_masks` returns."""

    folder: RunFolder
    step: int
    finished: bool


@dataclass(frozen=True)
class MaskBatches:
    """The batches of a run on masks: as many images at once as the recipe says."""

    batches: Batches
    images: int
    world: World = field(default_factory=World.alone)
    prepare: Callable[[Group[Any]], Group[Any]] = _as_it_is

    @property
    def num_steps(self) -> int:
        """Steps per epoch."""
        return self.batches.num_steps

    def step(self, step: int) -> Sequence[Sequence[Group[Any]]]:
        """The micro-batches of one step that this process runs."""
        groups = [self.prepare(group) for group in self.batches.groups(step)]
        parts = [groups[at : at + self.images] for at in range(0, len(groups), self.images)]
        return shares(parts, self.world.size)[self.world.rank]


def mask_loss(recipe: MaskRecipe) -> Loss:
    """Build the loss of a recipe.

    Raises:
        ConfigError: masks have nothing that it reads.
    """
    loss: Loss = build_loss(recipe.loss)
    if loss.byproducts:
        raise ConfigError(f"loss: {loss.name} reads {loss.byproducts[0]} of every token, which masks do not have here")
    if loss.needs_tokens and (recipe.data.units, recipe.data.reduce) != ("all", "sum"):
        raise ConfigError(f"loss: {loss.name} reads single pixels; set data.units=all and data.reduce=sum")
    return loss


def run_masks(recipe: MaskRecipe, console: Console | None = None, *, callbacks: Sequence[Callback] = ()) -> MaskOutcome:
    """Train a segmenter by a recipe and measure it; a second call after an interruption goes on, after the end it does nothing.

    Args:
        recipe: the run.
        console: console for messages; default, standard error.
        callbacks: your own, beside those of the recipe.

    Raises:
        ExptiltError: data cannot be used, the model is no segmenter, or a loss is not finite; the message is for a person.
    """
    with left_as_found(), ExitStack() as held:
        with joined(recipe.parallel) as world, losing_no_process(world):
            console = (console or Console(stderr=True)) if world.is_first else Console(quiet=True)
            folder = RunFolder(recipe.folder, writes=world.is_first)
            goes_on = recipe.train.resume != "never"
            if world.first(world.first_alone(lambda: goes_on and is_finished(folder, recipe))):
                console.print(f"{folder.path}: this run is finished; its model is in {folder.model}")
                return MaskOutcome(folder, folder.run.steps or 0, finished=True)
            world.first_alone(lambda: held.enter_context(started(recipe, folder, world.size, console)))
            session = open_masks(recipe, folder, console, world, callbacks)
            progress = session.train()
        if progress.is_last and world.is_first:
            session.finish()
    return MaskOutcome(folder, progress.step, progress.is_last)


@dataclass(frozen=True, kw_only=True)
class MaskSession:
    """The parts of one run on masks."""

    recipe: MaskRecipe
    folder: RunFolder
    console: Console
    world: World
    objective: Objective
    segmenter: Segmenter
    policy: MaskScorer
    rows: PreparedMasks
    batches: MaskBatches
    num_steps: int
    table: MaskTable | None
    """The reference's log-probabilities of all rows; None where the objective has no reference."""
    own_callbacks: Sequence[Callback] = ()

    def train(self) -> Progress:
        """Train to the end, or until somebody stops it, and save the model at the end."""
        recipe = self.recipe
        if self.table is not None:
            _check_step_zero(self.policy, self.table, self.batches.step(0)[0])
        optimizer = build_optimizer(recipe.optim, self.segmenter)
        rows = {"data": digest_of(self.rows.train), "held-out rows": digest_of(self.rows.test)}
        start = {"starting weights": self.segmenter.fingerprint()}
        run = Run(
            model=self.segmenter,
            objective=self.objective,
            policy=self.policy,
            reference=self.table,
            batches=self.batches,
            optimizer=optimizer,
            schedule=build_schedule(recipe.optim, optimizer, self.num_steps),
            settings=recipe.train,
            max_grad_norm=recipe.optim.max_grad_norm,
            num_steps=self.num_steps,
            folder=self.folder.path,
            identity=identity(recipe, **rows, **start),
            defaults=defaults_of(recipe),
            callbacks=self._callbacks(),
            seed=recipe.seed,
            world=self.world,
        )
        progress = train(run)
        self.folder.update_manifest(steps=progress.step)
        if progress.is_last:
            self.world.first_alone(lambda: save_segmenter(self.segmenter, self.folder.model))
        else:
            self.folder.update_manifest(status="stopped")
        return progress

    def finish(self) -> None:
        """Measure the saved model beside the weights it started from."""
        recipe, test = self.recipe, self.rows.test
        if len(test):
            classes = len(test.palette.names)
            trained = load_segmenter(type(recipe.segmenter)(path=str(self.folder.model)), classes)
            start = load_segmenter(recipe.segmenter, classes, recipe.seed)
            measured = partial(
                evaluate_masks, reference=start, rows=test, level=recipe.evaluate.level, at_once=recipe.batch.images
            )
            record = MaskEvaluation(
                level=recipe.evaluate.level,
                num_images=len({row.image for row in test.rows}),
                num_targets=sum(row.target is not None for row in test.rows),
                classes=test.palette.names,
                policy=measured(trained, name="trained"),
                reference=measured(start, name="reference"),
            )
            self.folder.write(MASK_EVALUATION, record)
            (self.folder.path / PICTURES).mkdir(exist_ok=True)
            for at in range(min(_PICTURES, len(test))):
                write_whole(self.folder.path / PICTURES / f"{at:02d}.png", picture_of(test.pixels(at), start, trained))
        self.folder.update_manifest(status="done", finished=datetime.now(UTC).isoformat(timespec="seconds"))
        page = write_mask_report(self.folder.path)
        self.console.print(f"model: {self.folder.model}\nreport: {page}", soft_wrap=True, highlight=False)

    def _callbacks(self) -> list[Callback]:
        settings, first = self.recipe.train, self.world.is_first
        log = Log(self.folder.path / METRICS, world=self.world)
        callbacks: list[Callback] = [log, *own_callbacks(settings), *self.own_callbacks, StopIf(settings.conditions)]
        if first and settings.report_to:
            callbacks.append(Trackers(settings.report_to, self.folder.path, as_dict(self.recipe)))
        if len(self.rows.test):
            callbacks.append(Evaluate(log, settings.eval_every, self._held_out_sums))
        callbacks.append(LogMetrics(log, settings.log_every))
        if first:
            callbacks.append(ShowProgress(0 if self.console.quiet else settings.log_every))
        log.listeners = callbacks
        return callbacks

    def _held_out_sums(self) -> Sums:
        """Sum loss and metrics over all held-out rows at once."""
        groups = [self.batches.prepare(group) for group in self.rows.test]
        with torch.no_grad():
            parts = [
                self.policy(groups[at : at + self.batches.images]) for at in range(0, len(groups), self.batches.images)
            ]
            policy = LogProbs.cat(parts)
            return self.objective(groups, policy, self.table(groups) if self.table else None).sums


def open_masks(
    recipe: MaskRecipe, folder: RunFolder, console: Console, world: World, callbacks: Sequence[Callback] = ()
) -> MaskSession:
    """Make all parts of a run on masks: weights, rows, batches, reference."""
    refuse_impossible(recipe)
    loss = mask_loss(recipe)
    classes = num_classes(recipe)
    segmenter = load_segmenter(recipe.segmenter, classes, recipe.seed)
    if recipe.segmenter.trains == "bias":
        freeze_all_but_biases(segmenter, classes)
    if torch.cuda.is_available():
        segmenter = segmenter.cuda()
    rows = world.first_before_others(
        lambda: refused_masks(prepare_masks(recipe.data, loss.kind, recipe.data.channels or channels_of(segmenter)))
    )
    world.first_alone(lambda: folder.write(DATA, rows.report))
    two_of = TwoOf.of(loss.needs_two, list(rows.train)) if loss.needs_two and not loss.mixes_rows else None
    prepare = with_distribution if loss.mixes_rows else _as_it_is
    start = copy.deepcopy(segmenter).requires_grad_(False) if loss.mixes_rows else None
    plan = BatchConfig(size=recipe.batch.size, tokens=None, shuffle=recipe.batch.shuffle)
    batches = Batches(rows.train, plan, seed=recipe.seed, world_size=world.size, two_of=two_of)
    policy = MaskScorer(segmenter, CountedPixels(recipe.data.units, recipe.data.reduce), start)
    refuse_impossible(recipe, measured_names(Objective(loss), [prepare(row) for row in batches.groups(0)]))
    table = None
    if loss.needs_reference:
        every, at_once = _all_rows(rows.train, rows.test), recipe.batch.images
        table = MaskTable.of(policy, every, source=_START, at_once=at_once, prepare=prepare)
        folder.update_manifest(reference=ReferenceIdentity(identity=table.identity, source=table.source))
    return MaskSession(
        recipe=recipe,
        folder=folder,
        console=console,
        world=world,
        objective=Objective(loss),
        segmenter=segmenter,
        policy=policy,
        rows=rows,
        batches=MaskBatches(batches, recipe.batch.images, world, prepare),
        num_steps=steps_in(recipe.train, batches.num_steps),
        table=table,
        own_callbacks=callbacks,
    )


def _all_rows(train: MaskSet, test: MaskSet) -> MaskSet:
    return MaskSet([*train.rows, *test.rows], train.palette, train.channels)


def num_classes(recipe: MaskRecipe) -> int:
    """Number of classes that a recipe names.

    Raises:
        ConfigError: the file of their names cannot be read.
    """
    try:
        return len(Palette.of(recipe.data.classes, recipe.data.ignore, recipe.data.foreground).names)
    except DataError as error:
        raise ConfigError(str(error)) from None


def _check_step_zero(policy: MaskScorer, table: MaskTable, groups: Sequence[Group[Any]]) -> None:
    """Refuse a start at which policy and reference differ.

    Raises:
        TrainingError: they differ by more than rounding.
    """
    with torch.no_grad():
        now, before = policy(groups), table(groups)
    scale = (
        groups[0].completions[0].length if policy.pixels.reduce == "sum" and policy.pixels.units == "differing" else 1
    )
    worst = float((now.tokens() - before.tokens()).abs().max()) / scale
    if not worst <= _STEP_ZERO:
        raise TrainingError(
            f"before step 1 segmenter and reference differ by {worst:.3g} nats a pixel: the forward pass is not deterministic, or "
            "depends on the other images of a batch"
        )
