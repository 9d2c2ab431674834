"""The plan and its phases: numbers of steps, and seconds by activity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

import torch

from exptilt.losses.from_choice import build_loss
from exptilt.planning.arithmetic import Load, Manner, forward_flops, step_flops
from exptilt.planning.devices import Fleet
from exptilt.planning.model_size import ModelSize
from exptilt.planning.planned_rollouts import load_of_rollout, steps_per_epoch
from exptilt.planning.planned_rows import PlannedRows
from exptilt.planning.probe import TURNS, Rehearsal, StraightLine, Subject
from exptilt.policies.scorer import MicroBatches
from exptilt.runs.checks.familiarity import NUM_PROMPTS
from exptilt.runs.run_batches import steps_in
from exptilt.runs.run_rollouts import rollouts_in
from exptilt.settings.recipe import Recipe
from exptilt.settings.rounds_settings import RoundsConfig

SHARE = 0.95
"""Of a device's memory that a plan may fill."""
_DRAWN_AT_ONCE = 256
_LOOKED_AT = 2000
"""Held-out rows whose lengths are counted."""
_CHECK_TOKENS = 64
"""Drawn for each prompt when the reference is checked before step 1."""
_LAUNCH = 0.7e-3
"""Seconds a GPU needs at least for a block's forward and backward, however small: some hundred kernels; assumed."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Seconds of each kind of work, for all devices together."""

    size: ModelSize
    step: StraightLine
    """Forward, loss and backward of a micro-batch, by its operations."""
    forward: StraightLine
    """Scoring without a graph, likewise; of a batch wherever it is scored."""
    update: float
    """Clipping and the optimizer, once a step."""
    draw: StraightLine
    """One new token, by how many completions get one."""

    @classmethod
    def measured(cls, size: ModelSize, manner: Manner, subject: Subject, rehearsal: Rehearsal, devices: int) -> Costs:
        """From a rehearsal on one device."""
        sizes = (subject.small, subject.large)
        stepped, scored = (
            [_mean_load(some[1:]) for some in sizes],
            [_mean_load(some[1 : TURNS + 1]) for some in sizes],
        )
        step = StraightLine.through(
            [(step_flops(size, load, manner), t) for load, t in zip(stepped, rehearsal.step, strict=True)]
        )
        forward = StraightLine.through(
            [(forward_flops(size, load), t) for load, t in zip(scored, rehearsal.forward, strict=True)]
        )
        rows = max(1, len(subject.prompts))
        draw = rehearsal.draw if subject.prompts else forward.at(forward_flops(size, Load(1, 1, 1, 0)))
        return cls(
            size=size,
            step=StraightLine(step.start, step.slope / devices),  # micro-batches are counted on each device
            forward=StraightLine(forward.start / devices, forward.slope / devices),
            update=rehearsal.update,
            draw=StraightLine(0.0, draw / rows / devices),
        )

    @classmethod
    def of_table(cls, size: ModelSize, fleet: Fleet, products: torch.dtype, *, moved: float) -> Costs:
        """From data sheets; a GPU also needs time to be told what to do.

        Args:
            size: of the model.
            fleet: the devices.
            products: dtype of the matrix products.
            moved: bytes that the optimizer moves on each device.
        """
        seconds = 1 / fleet.device.rate(products) / fleet.count
        told, row = size.layers * _LAUNCH, forward_flops(size, Load(1, 1, 1, 0)) * seconds
        return cls(
            size=size,
            step=StraightLine(told, seconds),
            forward=StraightLine(told / 3 / fleet.count, seconds),
            update=moved / fleet.device.bandwidth,
            draw=StraightLine(max(told / 3, size.total * 2 / fleet.device.bandwidth), row),
        )

    def scoring(self, load: Load, at_once: int) -> float:
        """Seconds to score a load in micro-batches of `at_once` tokens."""
        return math.ceil(load.tokens / at_once) * self.forward.start + self.forward.slope * forward_flops(
            self.size, load
        )

    def drawing(self, rows: int, new_tokens: int) -> float:
        """Seconds to draw `new_tokens` tokens for each of `rows` rows at once."""
        return new_tokens * self.draw.at(rows) if rows else 0.0


@dataclass(frozen=True, kw_only=True)
class PlannedPhase:
    """One run of the loop: the supervised phase, or the training itself."""

    name: str
    rows: int
    steps: int
    tokens: float
    """Unique tokens fed in a step, over all devices."""
    micro_batches: float
    """In a step, on each device; the mean."""
    flops: float
    """Of a step, over all devices."""
    step_seconds: float
    seconds: dict[str, float]
    """By what they are spent on."""


def _mean_load(steps: Sequence[MicroBatches]) -> Load:
    """Mean load of a micro-batch."""
    micro_batches = list(chain.from_iterable(steps))
    return Load.of(list(chain.from_iterable(micro_batches))).times(1 / len(micro_batches))


def steps_of(recipe: Recipe, rows: int) -> int:
    """Number of optimizer steps of a run on `rows` rows.

    Example:
        >>> from exptilt.settings.load import load
        >>> run = load(Recipe, None, ["output=runs/a", "model.path=m", "data.train=t.jsonl", "train.epochs=1.5"])
        >>> run.batch.size, steps_of(run, rows=100)  # two steps a pass, the second a short one
        (64, 3)
    """
    if recipe.rollout is not None:
        return steps_in(recipe.train, steps_per_epoch(recipe, rows))
    return steps_in(recipe.train, math.ceil(rows / recipe.batch.size))


def seconds_of(recipe: Recipe, costs: Costs, training: float, rows: PlannedRows, load: Load) -> dict[str, float]:
    """Seconds of a phase, by activity.

    Args:
        recipe: of the phase.
        costs: of its work.
        training: seconds of all its steps.
        rows: how many there are.
        load: of one step.
    """
    if recipe.rollout is not None:
        return _online(recipe, costs, training, rows)
    spent, at_once = {"training": training}, recipe.batch.at_once
    if recipe.rounds is not None:
        spent["samples of the round (roughly)"] = _sampling(recipe.rounds, costs, rows.num_train)
    some = rows.test[:_LOOKED_AT]
    held_out = Load.of(some).times(rows.num_test / len(some)) if len(some) else Load(0, 0, 0, 0)
    if build_loss(recipe.loss).needs_reference and not recipe.reference.move_every:
        spent["reference, once"] = costs.scoring(load.times(rows.num_train / load.groups) + held_out, at_once)
    if checks_reference(recipe):
        spent["check of the reference"] = costs.drawing(min(NUM_PROMPTS, rows.num_train), _CHECK_TOKENS)
    if not len(some):
        return spent
    kind = recipe.loss.kind
    final = not kind.imitates
    every = recipe.train.eval_every
    between = (steps_of(recipe, rows.num_train) - 1) // every if every else 0
    spent["held-out loss"] = (2 + between + final) * costs.scoring(held_out, at_once)
    length = recipe.evaluate.max_new_tokens
    drawn = between * costs.drawing(min(recipe.train.eval_samples, rows.num_test), length)
    if kind.has_reference:
        count = min(recipe.evaluate.num_prompts, rows.num_test) * recipe.evaluate.num_samples
        batches = math.ceil(count / _DRAWN_AT_ONCE)
        drawn += 2 * batches * costs.drawing(min(count, _DRAWN_AT_ONCE), length)  # of the policy and of the reference
    if drawn:
        spent["samples (roughly)"] = drawn
    return spent


def _online(recipe: Recipe, costs: Costs, training: float, rows: PlannedRows) -> dict[str, float]:
    """Seconds of an online run: each rollout is drawn, and scored by policy and reference; so are held-out prompts."""
    settings, size = rollouts_in(recipe), recipe.batch.size
    steps = steps_of(recipe, rows.num_train)
    rollouts = math.ceil(steps / settings.updates(size))
    load = load_of_rollout(recipe, rows.train)
    num_samples = settings.prompts_per_rollout(size) * settings.num_samples

    def drawing(count: int) -> float:
        batches = math.ceil(count / settings.samples_at_once)
        return batches * costs.drawing(min(count, settings.samples_at_once), settings.law.max_new_tokens)

    scoring = 2 * costs.scoring(load, recipe.batch.at_once)
    spent = {
        "training": training,
        "drawing rollouts (at most)": rollouts * drawing(num_samples),
        "scoring rollouts": rollouts * scoring,
    }
    held_out = min(recipe.evaluate.num_prompts, rows.num_test) * recipe.evaluate.num_samples
    every = recipe.train.eval_every
    if held_out:
        times = 2 + ((steps - 1) // every if every else 0)
        spent["held-out prompts"] = (times + 2) * drawing(held_out) + times * scoring * held_out / num_samples
    return spent


def _sampling(rounds: RoundsConfig, costs: Costs, num_rows: int) -> float:
    """Seconds to draw the completions that make so many rows, each to its greatest length."""
    count = num_rows // max(1, rounds.pairs_of_a_prompt) * rounds.num_samples
    batches = math.ceil(count / rounds.samples_at_once)
    return batches * costs.drawing(min(count, rounds.samples_at_once), rounds.law.max_new_tokens)


def checks_reference(recipe: Recipe) -> bool:
    """Whether a run draws samples of the reference before step 1."""
    kind = recipe.loss.kind
    return kind.is_paired and kind.has_reference and recipe.reference.model is None and recipe.rollout is None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The plan of a run."""

    output: str
    fleet: Fleet
    size: ModelSize
    parallel: str
    products: str
    batch_tokens: int
    """Of a micro-batch: the recipe's, or what auto would find."""
    memory: dict[str, float]
    """Bytes on each device at the peak."""
    phases: list[PlannedPhase]
    disk: float
    """Bytes of checkpoints and models at the most, of all phases."""
    notes: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)

    @property
    def peak(self) -> float:
        """Peak bytes on each device."""
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        """Whether the peak fits each device, with a margin."""
        return self.peak <= SHARE * self.fleet.device.memory

    @property
    def seconds(self) -> float:
        """Seconds of all phases."""
        return sum(sum(phase.seconds.values()) for phase in self.phases)
