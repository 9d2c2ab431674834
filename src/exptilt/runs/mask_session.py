"""The parts of a run on masks: segmenter, rows, batches, reference; and its training by the one loop."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.console import Console

from exptilt.data.batching import Batches, shares
from exptilt.data.groups import Group, digest_of
from exptilt.data.masks.mask_checks import PreparedMasks, prepare_masks, refused_masks
from exptilt.data.masks.mask_set import MaskSet, Palette
from exptilt.data.mixing import TwoOf
from exptilt.errors import ConfigError, DataError, TrainingError
from exptilt.evaluation.masks.held_out_masks import HeldOutMasks, has_loss, names_of_rows
from exptilt.losses import Loss
from exptilt.losses.at_zero import loss_at_zero
from exptilt.losses.from_choice import build_loss
from exptilt.policies.segmenters.mask_scorer import CountedPixels, MaskScorer, MaskTable, with_distribution
from exptilt.policies.segmenters.segmenter import Segmenter
from exptilt.policies.segmenters.segmenter_files import (
    channels_of,
    freeze_all_but_biases,
    load_segmenter,
    save_segmenter,
)
from exptilt.processes.world import World
from exptilt.run_folder.file_names import DATA
from exptilt.run_folder.folder import RunFolder
from exptilt.run_folder.run_record import ReferenceIdentity
from exptilt.runs.checks.stop_conditions import refuse_impossible
from exptilt.runs.identity import defaults_of, identity
from exptilt.runs.run_batches import steps_in
from exptilt.runs.run_callbacks import Watched, contradicting, own_callbacks, trained
from exptilt.runs.text_watch import number_or_none
from exptilt.settings.data_settings import BatchConfig
from exptilt.settings.declaration import as_dict
from exptilt.settings.mask_settings import MaskRecipe
from exptilt.training.callbacks.callback import Callback, Progress
from exptilt.training.callbacks.trackers import require_trackers
from exptilt.training.guards.cautions import Facts
from exptilt.training.guards.mask_dangers import OF_MASKS
from exptilt.training.guards.measured_names import measured_names
from exptilt.training.objective import Objective
from exptilt.training.optim import build_optimizer, build_schedule
from exptilt.training.run import Run

_START = "the weights this run starts from"
_STEP_ZERO = 1e-4
"""Nats a pixel by which policy and reference may differ before step 1."""


Prepare = Callable[[Group[Any]], Group[Any]]


def _as_it_is(group: Group[Any]) -> Group[Any]:
    return group


@dataclass(frozen=True)
class MaskBatches:
    """The batches of a run on masks: as many images at once as the recipe says."""

    batches: Batches
    images: int
    world: World = field(default_factory=World.alone)
    prepare: Prepare = _as_it_is
    """What a row is made of before it is scored."""

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
    start: Segmenter | None = None
    """A frozen copy of the segmenter before step 1, for held-out rows and for objectives that read the exact KL."""
    own_callbacks: Sequence[Callback] = ()

    def train(self) -> Progress:
        """Train to the end, or until somebody stops it, and save the model at the end."""
        recipe, watched = self.recipe, self._watched()
        if self.table is not None:
            first = [self.batches.prepare(row) for row in self.batches.batches.groups(0)[: self.batches.images]]
            _check_step_zero(self.policy, self.table, first)
        optimizer = build_optimizer(recipe.optim, self.segmenter)
        rows = {"data": digest_of(self.rows.train), "held-out rows": digest_of(self.rows.test)}
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
            identity=identity(recipe, **rows, **{"starting weights": self.segmenter.fingerprint()}),
            defaults=defaults_of(recipe),
            callbacks=watched.callbacks(*own_callbacks(recipe.train), *self.own_callbacks),
            seed=recipe.seed,
            world=self.world,
        )
        return trained(run, watched, self.console)

    def _watched(self) -> Watched:
        """The parts of the run that callbacks read."""
        recipe, world = self.recipe, self.world
        return Watched(
            settings=recipe.train,
            recipe=as_dict(recipe),
            folder=self.folder,
            world=world,
            facts=self._facts(),
            checks=OF_MASKS,
            save=lambda folder: world.first_alone(lambda: save_segmenter(self.segmenter, folder)),
            held_out_sums=self._held_out().sums if len(self.rows.test) else None,
            quiet=self.console.quiet,
        )

    def _facts(self) -> Facts:
        recipe, loss = self.recipe, self.objective.loss
        return Facts(
            loss.name,
            beta=number_or_none(getattr(loss, "beta", None)),
            learning_rate=recipe.optim.learning_rate,
            max_grad_norm=recipe.optim.max_grad_norm,
            start_loss=loss_at_zero(loss),
            rows=len(self.rows.train),
            contradicting=contradicting(self.rows.report.findings, recipe.data.on_conflict),
            of_masks=True,
        )

    def _held_out(self) -> HeldOutMasks:
        """What is measured while it trains."""
        if self.start is None:
            raise ValueError("held-out rows are measured beside the start")
        return HeldOutMasks(
            rows=self.rows.test,
            policy=self.policy,
            start=self.start,
            objective=self.objective,
            table=self.table,
            at_once=self.batches.images,
            prepare=self.batches.prepare,
        )


def open_masks(
    recipe: MaskRecipe, folder: RunFolder, console: Console, world: World, callbacks: Sequence[Callback] = ()
) -> MaskSession:
    """Make all parts of a run on masks: weights, rows, batches, reference."""
    require_trackers(recipe.train.report_to)
    own_callbacks(recipe.train)  # refused before anything is spent
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
    start = copy.deepcopy(segmenter).requires_grad_(False) if loss.mixes_rows or len(rows.test) else None
    plan = BatchConfig(size=recipe.batch.size, tokens=None, shuffle=recipe.batch.shuffle)
    batches = Batches(rows.train, plan, seed=recipe.seed, world_size=world.size, two_of=two_of)
    policy = MaskScorer(segmenter, CountedPixels(recipe.data.units, recipe.data.reduce), start)
    objective = Objective(loss)
    refuse_impossible(recipe, _measured_names(objective, [prepare(row) for row in batches.groups(0)], rows.test))
    table = None
    if loss.needs_reference:
        every, at_once = _all_rows(rows.train, rows.test, loss), recipe.batch.images
        table = MaskTable.of(policy, every, source=_START, at_once=at_once, prepare=prepare)
        folder.update_manifest(reference=ReferenceIdentity(identity=table.identity, source=table.source))
    return MaskSession(
        recipe=recipe,
        folder=folder,
        console=console,
        world=world,
        objective=objective,
        segmenter=segmenter,
        policy=policy,
        rows=rows,
        batches=MaskBatches(batches, recipe.batch.images, world, prepare),
        num_steps=steps_in(recipe.train, batches.num_steps),
        table=table,
        start=start,
        own_callbacks=callbacks,
    )


def _all_rows(train: MaskSet, test: MaskSet, loss: Loss) -> MaskSet:
    """Rows that the reference is asked about; held-out images without a label have no loss."""
    labelled = [row for row in test.rows if row.label is not None or loss.kind.imitates]
    return MaskSet([*train.rows, *labelled], train.palette, train.channels)


def _measured_names(objective: Objective, groups: Sequence[Group[Any]], test: MaskSet) -> dict[str, set[str]]:
    """The metrics of training and of held-out rows, known before step 1."""
    names = measured_names(objective, groups)
    if not len(test):
        return names
    of_loss = names["eval"] if has_loss(test, objective.loss) else set()
    return {"train": names["train"], "eval": of_loss | names_of_rows(test)}


def num_classes(recipe: MaskRecipe) -> int:
    """Number of classes that a recipe names.

    Raises:
        ConfigError: the file of their names cannot be read.
    """
    try:
        return len(Palette.of(recipe.data.classes, recipe.data.ignore, recipe.data.foreground).names)
    except DataError as error:
        raise ConfigError(str(error)) from None


def channels_of_recipe(recipe: MaskRecipe) -> int:
    """Channels that images are read with.

    Raises:
        ModelError: the segmenter, which says it where the recipe does not, cannot be loaded.
    """
    if recipe.data.channels is not None:
        return recipe.data.channels
    return channels_of(load_segmenter(recipe.segmenter, num_classes(recipe), recipe.seed))


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
