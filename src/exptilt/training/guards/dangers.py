"""Dangers that metrics show: one function for each danger, with its limit and the reason for the limit."""

from __future__ import annotations

from statistics import mean

from exptilt.training.guards.alarms import below_uniform, runaway
from exptilt.training.guards.cautions import FEW, KL_LIMIT, Facts, History
from exptilt.training.guards.checks import Checks
from exptilt.training.guards.cures import Danger, cures
from exptilt.training.guards.loss_dangers import overfitting, overshooting, saturated, worse_than_the_start, wrong_start
from exptilt.training.guards.moved import Moved, moved
from exptilt.training.guards.rollout_dangers import collapsing, far_from_reference, lengthening
from exptilt.training.guards.row_dangers import rows_contradict

FORCED_FACTOR = 2.0
FORCED_SLACK = 2.0
"""KL is estimated on few samples, and in the other direction than the forced part, which agrees only to second order;
twice of it and two nats more cannot be explained by either."""
FALL_PER_TOKEN = 0.5
FALL_AT_LEAST = 10.0
"""Nats; without a KL to compare with, half a nat a token means every token of a chosen text became a third less likely:
more than whole runs of published DPO models show (0.1 to 0.3)."""
DRIFT_PER_TOKEN = 1.0
DRIFT_AT_LEAST = 30.0
"""Nats between chosen and rejected beyond the reference's own gap; at beta 0.1 the sigmoid is flat from 50 nats on, so
what is beyond is not taught by preferences."""
FLAT = 0.05
"""Nats a completion; a policy within this of its reference half-way through a run has learned nothing that samples show. Of a
reward model, the log-odds by which it prefers a completion to another: 51 %."""
GROWTH = 10.0
"""Clipping every step by the same factor is common and harmless, since adaptive optimisers divide scale out; a norm that
has grown tenfold since the start is not."""


def _falling(place: Moved | None, kl: float | None) -> Danger | None:
    """Against a KL of the very same weights only: one that is some steps old explains too little of the fall.

    A KL from another reference than the start explains none of what happened since the start.
    """
    if place is None:
        return None
    if kl is not None:
        limit = -(FORCED_FACTOR * kl + FORCED_SLACK)
        known = (
            f"samples show a KL of {kl:.3g} nats, and about that much of the fall is forced where pairs are drawn from the "
            "reference; the rest went to texts that are in no pair"
        )
    else:
        limit = -max(FALL_AT_LEAST, FALL_PER_TOKEN * place.length)
        known = "how much of it is forced these numbers cannot tell: train.eval_samples would"
    if place.chosen >= limit:
        return None
    return Danger(
        step=place.step,
        name="displacement",
        message=f"chosen completions lost {-place.chosen:.3g} nats since the start, {-place.chosen / place.length:.2g} a "
        f"token (rejected ones {-place.rejected:.3g}); {known}",
        cures=cures("raise loss.beta", "lower optim.learning_rate"),
        value=place.chosen,
        limit=limit,
    )


def _falling_in_training(history: History, facts: Facts) -> Danger | None:
    return None if history.measures_kl() else _falling(moved(history, "train", facts), None)


def _falling_held_out(history: History, facts: Facts) -> Danger | None:
    kl = history.held_out[-1].values.get("eval/kl") if facts.own_reference else None
    return _falling(moved(history, "eval", facts), kl)


def _drifting(history: History, facts: Facts) -> Danger | None:
    place = moved(history, "train", facts)
    limit = max(DRIFT_AT_LEAST, DRIFT_PER_TOKEN * place.length) if place else 0.0
    if place is None or place.gap <= limit:
        return None
    held = f"beta={facts.beta:g} holds it back too little" if facts.beta else "nothing holds it back"
    return Danger(
        step=place.step,
        name="drift",
        message=f"chosen is {place.gap:.3g} nats ahead of rejected beyond the reference's own gap, "
        f"{place.gap / place.length:.2g} a token: the policy drifts and {held}",
        cures=cures("raise loss.beta", "lower optim.learning_rate", "lower train.epochs"),
        value=place.gap,
        limit=limit,
    )


def _flat(history: History, facts: Facts) -> Danger | None:
    place = moved(history, "train", facts, last=FEW)
    if place is None or len(history.training) < FEW or history.training[-1].share < 0.5 or rows_contradict(facts):
        return None
    most = max(abs(place.chosen), abs(place.rejected))
    if most >= FLAT:
        return None
    held = f"beta={facts.beta:g} or " if facts.beta else ""
    return Danger(
        step=place.step,
        name="flat",
        message=f"half the steps are done and neither chosen nor rejected moved more than {most:.2g} nats from the "
        f"reference: {held}a small learning rate holds the policy where it began",
        cures=cures("raise optim.learning_rate", "lower loss.beta"),
        value=most,
        limit=FLAT,
    )


def _says_the_same(history: History, facts: Facts) -> Danger | None:
    """Of a reward model: the scores of one row's completions hardly differ."""
    spreads = [line.values["train/spread"] for line in history.training[-FEW:] if "train/spread" in line.values]
    if len(spreads) < FEW or history.training[-1].share < 0.5 or rows_contradict(facts):
        return None
    most = max(spreads)
    if most >= FLAT:
        return None
    return Danger(
        step=history.training[-1].step,
        name="flat",
        message=f"half the steps are done and the scores of a row's completions differ by {most:.2g} on average: the reward "
        "model says nearly the same of everything",
        cures=cures("raise optim.learning_rate", "raise train.epochs"),
        value=most,
        limit=FLAT,
    )


def _far(history: History, facts: Facts) -> Danger | None:
    line = history.held_out[-1]
    kl, start = line.values.get("eval/kl", 0.0), history.start_of("eval")
    before = start.values.get("eval/kl", 0.0) if start is not None else 0.0  # of another reference
    if not kl - before > KL_LIMIT:
        return None
    length = line.values.get("eval/sample_length")
    per_token = f", {kl / length:.2g} a token" if length else ""
    return Danger(
        step=line.step,
        name="kl",
        message=f"samples are {kl:.3g} nats from the reference{per_token}: rewards measured on its pairs say little there",
        cures=cures("raise loss.beta", "lower optim.learning_rate"),
        value=kl,
        limit=KL_LIMIT,
    )


def clipped(history: History, facts: Facts) -> Danger | None:
    """The gradient has grown far beyond its start, and every step clips it."""
    norms = [line.values.get("train/grad_norm", 0.0) for line in history.training]
    if len(norms) < 2 * FEW:
        return None
    before, now = mean(norms[:FEW]), min(norms[-FEW:])
    limit = GROWTH * max(before, facts.max_grad_norm)
    if not now > limit:
        return None
    return Danger(
        step=history.training[-1].step,
        name="gradient",
        message=f"the gradient's norm is {now:.3g} and was {before:.3g} at the start; clipping it to {facts.max_grad_norm:g} "
        "at every step hides that the run becomes unstable",
        cures=cures("lower optim.learning_rate", "raise optim.warmup_ratio"),
        value=now,
        limit=limit,
    )


OF_TEXTS = Checks(
    training=(
        below_uniform("train"),
        runaway("train"),
        overshooting,
        _falling_in_training,
        _drifting,
        _flat,
        _says_the_same,
        clipped,
        saturated,
        collapsing,
        far_from_reference,
        lengthening,
    ),
    held_out=(
        below_uniform("eval"),
        runaway("eval"),
        wrong_start,
        overfitting,
        worse_than_the_start,
        _falling_held_out,
        _far,
    ),
)
"""Of language models and reward models."""
