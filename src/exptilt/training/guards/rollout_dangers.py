"""Dangers of training on own completions: they become one text, leave the reference, or grow because length is rewarded."""

from __future__ import annotations

from statistics import mean

from exptilt.training.guards.cautions import FEW, KL_LIMIT, Facts, History
from exptilt.training.guards.cures import Danger, cures

COLLAPSED = 0.1
"""Share of the entropy at the start; DPO and RLOO near their optima keep a third or more of it, and below a tenth the completions
of a prompt are nearly one text, from which nothing can be compared any more."""
LENGTHENED = 2.0
"""Twice or half the length at the start: more than a better answer explains, and what rewards that like length lead to."""
LENGTHENED_AT_LEAST = 8.0
"""Tokens; short completions double by chance."""


def collapsing(history: History, facts: Facts) -> Danger | None:
    """Entropy that is nearly gone."""
    before, now = _first_and_latest(history, "train/rollout/entropy")
    if before is None or now is None or now >= COLLAPSED * before:
        return None
    return Danger(
        step=history.training[-1].step,
        name="entropy",
        message=f"the entropy of completions is {now:.3g} nats a token and was {before:.3g}: completions of a prompt become one text, "
        "and there is nothing left to compare",
        cures=cures("raise loss.beta", "lower optim.learning_rate"),
        value=now,
        limit=COLLAPSED * before,
    )


def far_from_reference(history: History, facts: Facts) -> Danger | None:
    """A KL of own completions that no tilt has."""
    _, now = _first_and_latest(history, "train/rollout/kl")
    if now is None or now <= KL_LIMIT:
        return None
    return Danger(
        step=history.training[-1].step,
        name="kl",
        message=f"completions are {now:.3g} nats from the reference: a reward that was learned on its text says little there",
        cures=cures("raise loss.beta", "lower optim.learning_rate"),
        value=now,
        limit=KL_LIMIT,
    )


def lengthening(history: History, facts: Facts) -> Danger | None:
    """A length that is no longer the start's, while the reward rises."""
    before, now = _first_and_latest(history, "train/rollout/length")
    reward_before, reward_now = _first_and_latest(history, "train/rollout/reward")
    if before is None or now is None or abs(now - before) < LENGTHENED_AT_LEAST:
        return None
    rises = reward_before is None or reward_now is None or reward_now > reward_before
    factor = max(now / before, before / now)
    if factor < LENGTHENED or not rises:
        return None
    return Danger(
        step=history.training[-1].step,
        name="length",
        message=f"completions have {now:.4g} tokens and had {before:.4g}: the reward may be for their length; compare with "
        "reward {kind: length}",
        cures=cures("raise loss.beta", "lower optim.learning_rate"),
        value=now,
        limit=before * (LENGTHENED if now > before else 1 / LENGTHENED),
    )


def _first_and_latest(history: History, name: str) -> tuple[float | None, float | None]:
    """The metric at the start and the mean of its latest lines; None where there are too few."""
    start = None if history.start is None else history.start.values.get(name)
    latest = [line.values[name] for line in history.training[-FEW:] if name in line.values]
    return start, mean(latest) if len(latest) == FEW else None
