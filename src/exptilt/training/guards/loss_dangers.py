"""Dangers that losses show: a wrong start, steps that are too large, rows learned by heart, nothing left to learn.

Like is compared with like: rows with the same rows, or a level with its own start.
"""

from __future__ import annotations

from exptilt.training.guards.cautions import FEW, Facts, History, Line
from exptilt.training.guards.cures import Cure, Danger, cures

START_TOLERANCE = 0.05
"""Relative. Rounding in bfloat16 moves a log-ratio by some tenths of a nat, a loss by its square: far below this; a
wrong reference moves it by far more."""
SATURATED = 0.999
SATURATED_LOSS = 0.05
"""Of the loss at zero: at log 2 * 0.05 the average pair is told apart with 97 %, and its gradient is 3 % of the start's."""
RISE = 0.05
"""Relative to the best held-out loss; the rows are the same each time, so noise between two evaluations is far smaller."""
SMALL = 0.1
"""Nats; a loss nearer to zero than this is compared by this, since nothing is a share of zero."""
OVERSHOT = 3.0
"""A training loss of three times its start: at log 2 that is two nats on the average pair, far outside a batch's noise."""
WORSE = 0.25
LATE = 0.75
"""Relative, in the last quarter of a run: while the rate is high a loss may stand above its start and still come down."""


def starting_loss(loss: float, facts: Facts) -> Danger | None:
    """The loss before the first step against what it must be where policy and reference are one model."""
    expected = facts.start_loss
    if expected is None or abs(loss - expected) <= START_TOLERANCE * max(abs(expected), 0.1):
        return None
    return Danger(
        step=0,
        name="start",
        message=f"before the first step the loss is {loss:.4g}; {facts.loss} has {expected:.4g} where policy and reference "
        "are one model, so they are not, or dropout makes them differ",
        cures=cures(Cure("set", "reference.cache=false", " to score the reference anew")),
        value=loss,
        limit=expected,
    )


def wrong_start(history: History, facts: Facts) -> Danger | None:
    """The held-out loss before the first step."""
    line = history.held_out[-1]
    return starting_loss(line.values["eval/loss"], facts) if line.step == 0 and "eval/loss" in line.values else None


def saturated(history: History, facts: Facts) -> Danger | None:
    """All pairs told apart, by a loss near zero."""
    last = [line.values for line in history.training[-FEW:]]
    accuracies = [values.get("train/rewards/accuracies", values.get("train/accuracy", 0.0)) for values in last]
    limit = SATURATED_LOSS * (1.0 if facts.start_loss is None else abs(facts.start_loss))
    loss = max(values.get("train/loss", 0.0) for values in last)
    if len(last) < FEW or min(accuracies) < SATURATED or loss > limit:
        return None
    return Danger(
        step=history.training[-1].step,
        name="saturated",
        message=f"every pair of the last steps is told apart (accuracy {min(accuracies):.4g}, loss {loss:.2g}): nothing is left "
        "to learn from these rows but the rows themselves",
        cures=cures("lower train.epochs", "lower loss.beta", "raise loss.beta"),
        value=min(accuracies),
        limit=SATURATED,
    )


def overfitting(history: History, facts: Facts) -> Danger | None:
    """Nothing is learned by heart before it is seen twice.

    Levels of training rows and of others say nothing, since they may begin anywhere (SimPO, IPO, another reference). So each
    is compared with itself, at the best step and now.
    """
    now = history.held_out[-1]
    lines = [line for line in history.held_out if "eval/loss" in line.values]
    if now.epoch <= 1 or len(lines) < 2 or now is not lines[-1]:
        return None
    best = min(lines, key=lambda line: line.values["eval/loss"])
    then, train = best.train_loss, now.train_loss
    if then is None and history.start is not None:  # the best is from before the first step
        then = history.start.values.get("train/loss")
    low, high = best.values["eval/loss"], now.values["eval/loss"]
    limit = low + RISE * max(abs(low), SMALL)
    if then is None or train is None or high <= limit or train >= then - RISE * max(abs(then), SMALL):
        return None
    return Danger(
        step=now.step,
        name="overfitting",
        message=f"the held-out loss is {high:.4g} and was {low:.4g} at step {best.step}, while the training loss fell from "
        f"{then:.4g} to {train:.4g}: the run learns its rows by heart",
        cures=cures(
            Cure("set", 'train.best="min eval/loss"', " (with train.eval_every) to keep the best weights"),
            "lower train.epochs",
        ),
        value=high,
        limit=limit,
    )


def overshooting(history: History, facts: Facts) -> Danger | None:
    """A training loss far above its start; this is said at once, while there is time."""
    began = facts.start_loss if facts.start_loss is not None else _value(history.start, "train/loss")
    now = _value(history.training[-1], "train/loss")
    if began is None or now is None or not facts.has_level:
        return None
    limit = began + (OVERSHOT - 1) * max(abs(began), 5 * SMALL)
    return None if now <= limit else _overshot(history.training[-1].step, "training", now, began, limit)


def worse_than_the_start(history: History, facts: Facts) -> Danger | None:
    """A held-out loss above its start near the end. If the training rows improved meanwhile, it is overfitting instead."""
    start, line = history.held_out[0], history.held_out[-1]
    began, now = _value(start, "eval/loss"), _value(line, "eval/loss")
    if start.step or line is start or began is None or now is None or line.share < LATE or overfitting(history, facts):
        return None
    limit = began + WORSE * max(abs(began), SMALL)
    return None if now <= limit else _overshot(line.step, "held-out", now, began, limit)


def _overshot(step: int, whose: str, now: float, began: float, limit: float) -> Danger:
    return Danger(
        step=step,
        name="overshoot",
        message=f"the {whose} loss is {now:.4g} and was {began:.4g} before the first step: the steps are too large for this "
        "objective, and the model gets worse than it was",
        cures=cures("lower optim.learning_rate", "lower loss.beta", "raise batch.size"),
        value=now,
        limit=limit,
    )


def _value(line: Line | None, name: str) -> float | None:
    return None if line is None else line.values.get(name)
