"""What a run's metrics may warn of: one function a danger, of the lines so far; numbers with their reasons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean

from exptilt.run_folder.run_record import Caution
from exptilt.training.guards.cautions import Facts, History, Line

_FEW = 3
"""Lines that are averaged where one alone says little."""

START_TOLERANCE = 0.05
"""Relative. Rounding in bfloat16 moves a log-ratio by some tenths of a nat, a loss by its square: far below this; a
wrong reference moves it by far more."""
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
"""Nats a completion; a policy within this of its reference half-way through a run has learned nothing that samples show."""
KL_LIMIT = 30.0
"""Nats a completion. Best of a million samples is 13 nats away from its reference, and the DPO paper's controlled runs
stay below 20: what is beyond 30 is no longer a tilt of the reference."""
GROWTH = 10.0
"""Clipping every step by the same factor is common and harmless, since adaptive optimisers divide scale out; a norm that
has grown tenfold since the start is not."""
SATURATED = 0.999
SATURATED_LOSS = 0.05
"""Of the loss at zero: at log 2 * 0.05 the average pair is told apart with 97 %, and its gradient is 3 % of the start's."""
RISE = 0.05
"""Relative to the best held-out loss; the rows are the same each time, so noise between two evaluations is far smaller."""
WORSE = 0.25
LATE = 0.75
"""Relative, in the last quarter of a run: while the rate is high a loss may stand above its start and still come down."""


def starting_loss(loss: float, facts: Facts) -> Caution | None:
    """The loss before the first step against what it must be where policy and reference are one model."""
    expected = facts.start_loss
    if expected is None or abs(loss - expected) <= START_TOLERANCE * max(abs(expected), 0.1):
        return None
    return Caution(
        step=0,
        name="start",
        message=f"before the first step the loss is {loss:.4g}; {facts.loss} has {expected:.4g} where policy and reference "
        "are one model, so they are not, or dropout makes them differ",
        advice="set reference.cache=false to score the reference anew, look at reference.model, or set model.dropout=0",
        value=loss,
        limit=expected,
    )


def _start(history: History, facts: Facts) -> Caution | None:
    line = history.held_out[-1]
    return starting_loss(line.values["eval/loss"], facts) if line.step == 0 and "eval/loss" in line.values else None


@dataclass(frozen=True)
class _Moved:
    """How far both sides of the pairs moved from the reference, nats a completion."""

    step: int
    chosen: float
    rejected: float
    length: float
    """Counted tokens of a chosen completion."""

    @property
    def gap(self) -> float:
        return self.chosen - self.rejected


def _moved(lines: list[Line], prefix: str, last: int = 1) -> _Moved | None:
    """Mean of the latest lines, where sides are compared with a reference."""
    names = [f"{prefix}/{name}" for name in ("displacement/chosen", "displacement/rejected", "lengths/chosen")]
    some = [
        [line.values[name] for name in names] for line in lines[-last:] if all(name in line.values for name in names)
    ]
    return _Moved(lines[-1].step, *(mean(column) for column in zip(*some, strict=True))) if some else None


def _falling(moved: _Moved | None, kl: float | None) -> Caution | None:
    """Against a KL of the very same weights only: one that is some steps old explains too little of the fall."""
    if moved is None:
        return None
    if kl is not None:
        limit = -(FORCED_FACTOR * kl + FORCED_SLACK)
        known = (
            f"samples show a KL of {kl:.3g} nats, and with pairs drawn from the reference about that much of the fall (KL in "
            "the other direction) is forced; the rest went to texts that are in no pair"
        )
    else:
        limit = -max(FALL_AT_LEAST, FALL_PER_TOKEN * moved.length)
        known = (
            "how much of it is forced (a policy that moves lowers both sides if pairs are drawn from the reference) these "
            "numbers cannot tell: train.eval_samples would"
        )
    if moved.chosen >= limit:
        return None
    return Caution(
        step=moved.step,
        name="displacement",
        message=f"chosen completions lost {-moved.chosen:.3g} nats against the reference, {-moved.chosen / moved.length:.2g} a "
        f"token (rejected ones {-moved.rejected:.3g}); {known}",
        advice="raise loss.beta, lower optim.learning_rate, anchor the chosen side (loss=dpop, or a mixture with nll), or "
        "drop pairs whose two sides are nearly one text (data.drop_highest_ches)",
        value=moved.chosen,
        limit=limit,
    )


def _falling_in_training(history: History, facts: Facts) -> Caution | None:
    return None if history.measures_kl() else _falling(_moved(history.training, "train"), None)


def _falling_held_out(history: History, facts: Facts) -> Caution | None:
    return _falling(_moved(history.held_out, "eval"), history.held_out[-1].values.get("eval/kl"))


def _drifting(history: History, facts: Facts) -> Caution | None:
    moved = _moved(history.training, "train")
    limit = max(DRIFT_AT_LEAST, DRIFT_PER_TOKEN * moved.length) if moved else 0.0
    if moved is None or moved.gap <= limit:
        return None
    held = f"beta={facts.beta:g} holds it back too little" if facts.beta else "nothing holds it back"
    return Caution(
        step=moved.step,
        name="drift",
        message=f"chosen is {moved.gap:.3g} nats ahead of rejected beyond the reference's own gap, "
        f"{moved.gap / moved.length:.2g} a token: the policy drifts and {held}",
        advice="raise loss.beta, lower optim.learning_rate, or end earlier with train.epochs",
        value=moved.gap,
        limit=limit,
    )


def _flat(history: History, facts: Facts) -> Caution | None:
    moved = _moved(history.training, "train", last=3)
    if moved is None or len(history.training) < _FEW or history.training[-1].share < 0.5:
        return None
    most = max(abs(moved.chosen), abs(moved.rejected))
    if most >= FLAT:
        return None
    held = f"beta={facts.beta:g} or " if facts.beta else ""
    return Caution(
        step=moved.step,
        name="flat",
        message=f"half the steps are done and neither chosen nor rejected moved more than {most:.2g} nats from the "
        f"reference: {held}a small learning rate holds the policy where it began",
        advice="raise optim.learning_rate" + (", or lower loss.beta" if facts.beta else ""),
        value=most,
        limit=FLAT,
    )


def _far(history: History, facts: Facts) -> Caution | None:
    line = history.held_out[-1]
    kl = line.values.get("eval/kl", 0.0)
    if not kl > KL_LIMIT:
        return None
    length = line.values.get("eval/sample_length")
    per_token = f", {kl / length:.2g} a token" if length else ""
    return Caution(
        step=line.step,
        name="kl",
        message=f"samples are {kl:.3g} nats from the reference{per_token}: rewards measured on its pairs say little there",
        advice='raise loss.beta, lower optim.learning_rate, or end such a run with train.stop_if: ["eval/kl > 30"]',
        value=kl,
        limit=KL_LIMIT,
    )


def _clipped(history: History, facts: Facts) -> Caution | None:
    norms = [line.values.get("train/grad_norm", 0.0) for line in history.training]
    if len(norms) < 2 * _FEW:
        return None
    before, now = mean(norms[:_FEW]), min(norms[-_FEW:])
    limit = GROWTH * max(before, facts.max_grad_norm)
    if not now > limit:
        return None
    return Caution(
        step=history.training[-1].step,
        name="gradient",
        message=f"the gradient's norm is {now:.3g} and was {before:.3g} at the start; clipping it to {facts.max_grad_norm:g} "
        "at every step hides that the run becomes unstable",
        advice="lower optim.learning_rate, or lengthen optim.warmup_ratio",
        value=now,
        limit=limit,
    )


def _saturated(history: History, facts: Facts) -> Caution | None:
    last = [line.values for line in history.training[-_FEW:]]
    accuracies = [values.get("train/rewards/accuracies", 0.0) for values in last]
    limit = SATURATED_LOSS * (1.0 if facts.start_loss is None else abs(facts.start_loss))
    loss = max(values.get("train/loss", 0.0) for values in last)
    if len(last) < _FEW or min(accuracies) < SATURATED or loss > limit:
        return None
    return Caution(
        step=history.training[-1].step,
        name="saturated",
        message=f"every pair of the last steps is told apart (accuracy {min(accuracies):.4g}, loss {loss:.2g}): nothing is left "
        "to learn from these rows but the rows themselves",
        advice="lower train.epochs or raise loss.beta; if it was so from the start, look for what gives the pairs away with "
        "`exptilt doctor`",
        value=min(accuracies),
        limit=SATURATED,
    )


def _rising(history: History, facts: Facts) -> Caution | None:
    """Rows seen once tell as much as held-out rows do, so only a training loss below them is learned by heart."""
    found = _held_out_losses(history)
    if found is None:
        return None
    best, now = found
    low, high = best.values["eval/loss"], now.values["eval/loss"]
    train = mean(line.values["train/loss"] for line in history.training[-_FEW:])
    limit = low + RISE * abs(low)
    if high <= limit or train >= low - RISE * abs(low):
        return None
    return Caution(
        step=now.step,
        name="overfitting",
        message=f"the held-out loss is {high:.4g} and was {low:.4g} at step {best.step}, while the training loss fell to "
        f"{train:.4g}: the run learns its rows by heart",
        advice='keep the best weights (train.best: "min eval/loss" with train.eval_every), lower train.epochs or '
        "optim.learning_rate, or raise loss.beta",
        value=high,
        limit=limit,
    )


def _worse(history: History, facts: Facts) -> Caution | None:
    found, start = _held_out_losses(history), history.held_out[0]
    if found is None or start.step or "eval/loss" not in start.values or found[1].share < LATE:
        return None
    now, began = found[1].values["eval/loss"], start.values["eval/loss"]
    limit = began + WORSE * abs(began)
    if now <= limit:
        return None
    return Caution(
        step=found[1].step,
        name="overshoot",
        message=f"the held-out loss is {now:.4g} and was {began:.4g} before the first step: the steps are too large for this "
        "objective, and leaving the model alone would have been better",
        advice="lower optim.learning_rate, or raise batch.size" + (", or lower loss.beta" if facts.beta else ""),
        value=now,
        limit=limit,
    )


def _held_out_losses(history: History) -> tuple[Line, Line] | None:
    """The best line and the latest, once there is something to compare."""
    measured = [line for line in history.held_out if "eval/loss" in line.values]
    if len(measured) < 2 or not history.training:
        return None
    return min(measured, key=lambda line: line.values["eval/loss"]), measured[-1]


Check = Callable[[History, Facts], Caution | None]
TRAINING: tuple[Check, ...] = (_falling_in_training, _drifting, _flat, _clipped, _saturated)
"""Asked after every line of training metrics."""
HELD_OUT: tuple[Check, ...] = (_start, _falling_held_out, _far, _rising, _worse)
"""Asked after every line of held-out metrics."""
