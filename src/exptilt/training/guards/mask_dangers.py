"""Dangers of runs on masks: what held-out images show that no text has."""

from __future__ import annotations

from exptilt.training.guards.cautions import Facts, History, Line
from exptilt.training.guards.checks import Checks
from exptilt.training.guards.cures import Cure, Danger, cures
from exptilt.training.guards.dangers import clipped
from exptilt.training.guards.loss_dangers import overfitting, overshooting, saturated, worse_than_the_start, wrong_start
from exptilt.training.guards.row_dangers import rows_contradict

AGREEMENT = 0.1
"""Nats a pixel. Where both masks of a pair agree nobody said that anything is wrong; runs with an anchor stay within this."""
ONE_CLASS = 0.001
"""Share of pixels: what is left for the other classes once a segmenter gives all images to one."""
BEFORE = 0.01
"""A start that gives nearly all pixels to one class is not blamed on the run."""
KL_LIMIT = 1.0
"""Nats a pixel. A segmenter that turns every sure pixel round is some nats away; runs that gain stay below 0.5."""
STILL = 1e-5
"""Nats a pixel; about what a shift of 0.03 of the log-odds of every tenth pixel makes."""
_ANCHOR = Cure("raise", "loss.terms", ": the weight of an anchor, such as nll")


def lost_agreement(history: History, facts: Facts) -> Danger | None:
    """Pixels on which both masks of a pair agree became less likely."""
    now, before = _both(history, "eval/agreement")
    if now is None or before is None or before - now <= AGREEMENT:
        return None
    return Danger(
        step=history.held_out[-1].step,
        name="displacement",
        message=f"pixels on which both masks of a pair agree lost {before - now:.3g} nats each since the start: the segmenter "
        "changes where nobody disagreed",
        cures=cures(_ANCHOR, "lower optim.learning_rate"),
        value=now - before,
        limit=-AGREEMENT,
    )


def one_class(history: History, facts: Facts) -> Danger | None:
    """All pixels of all held-out images are one class."""
    now, before = _both(history, "eval/foreground")
    if now is None or before is None or ONE_CLASS < now < 1 - ONE_CLASS or not BEFORE < before < 1 - BEFORE:
        return None
    return Danger(
        step=history.held_out[-1].step,
        name="runaway",
        message=f"{now:.1%} of all held-out pixels are foreground, and {before:.1%} were at the start: the segmenter tells no "
        "classes apart any more",
        cures=cures("lower optim.learning_rate", _ANCHOR),
        value=now,
        limit=ONE_CLASS if now <= ONE_CLASS else 1 - ONE_CLASS,
        alarm=True,
    )


def still(history: History, facts: Facts) -> Danger | None:
    """The segmenter is what it was, half-way through the run; log-probabilities of masks tell less, since their scale is the recipe's."""
    now, _ = _both(history, "eval/kl")
    line = history.held_out[-1]
    if now is None or line.share < 0.5 or now >= STILL or rows_contradict(facts):
        return None
    return Danger(
        step=line.step,
        name="flat",
        message=f"half the steps are done and the distribution of a held-out pixel moved by {now:.2g} nats: the segmenter is nearly "
        "what it was at the start",
        cures=cures("raise optim.learning_rate", "raise train.epochs"),
        value=now,
        limit=STILL,
    )


def far_from_start(history: History, facts: Facts) -> Danger | None:
    """The KL of a pixel's distribution from that of the start."""
    now, _ = _both(history, "eval/kl")
    if now is None or now <= KL_LIMIT:
        return None
    return Danger(
        step=history.held_out[-1].step,
        name="kl",
        message=f"a pixel's distribution is {now:.3g} nats from that of the start: candidates drawn near the start say little of "
        "masks there",
        cures=cures("lower optim.learning_rate", _ANCHOR),
        value=now,
        limit=KL_LIMIT,
    )


def _both(history: History, name: str) -> tuple[float | None, float | None]:
    """A held-out metric now and at the start."""
    start: Line | None = history.start_of("eval")
    return history.held_out[-1].values.get(name), None if start is None else start.values.get(name)


OF_MASKS = Checks(
    training=(overshooting, clipped, saturated),
    held_out=(one_class, wrong_start, overfitting, worse_than_the_start, lost_agreement, far_from_start, still),
)
"""Of segmenters."""
