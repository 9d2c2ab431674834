"""Alarms: dangers after which a model must not be used."""

from __future__ import annotations

import math

from exptilt.training.guards.cautions import Facts, History, Line
from exptilt.training.guards.checks import Check
from exptilt.training.guards.cures import Cure, Danger, cures
from exptilt.training.guards.moved import side_moved

FALLEN = 0.5
"""Nats a token below the start; a model whose start is below a uniform guess (random weights) is not blamed for it."""
REJECTED = 3.0
"""Rejected text is meant to become unlikely, and may have been noise from the start. At three times the nats of a uniform
guess nothing of the model's knowledge of text is left."""
RUNAWAY_PER_TOKEN = 3.0
RUNAWAY_AT_LEAST = 100.0
"""Nats; every token of a chosen completion became twenty times less likely. Runs of published models show 0.1 to 0.3."""
STILL = 3
"""Steps in a row."""
_SIDES = ("/chosen", "", "/rejected")


def below_uniform(prefix: str) -> Check:
    """Completions less likely than random tokens.

    Args:
        prefix: "train" or "eval", the rows that are looked at.
    """

    def check(history: History, facts: Facts) -> Danger | None:
        line = (history.training if prefix == "train" else history.held_out)[-1]
        start = history.start_of(prefix)
        for side in _SIDES if facts.vocabulary else ():
            name = f"{prefix}/logps_per_token{side}"
            uniform = -math.log(facts.vocabulary or 1)
            limit = uniform * (REJECTED if side == "/rejected" else 1.0)
            if start is not None and name in start.values:
                limit = min(limit, start.values[name] - FALLEN)
            now = line.values.get(name, 0.0)
            if now < limit and not _was_there(history, line, prefix, side, facts):
                text = f"{side[1:]} completions" if side else "completions"
                return Danger(
                    step=line.step,
                    name="below_uniform",
                    message=f"{text} have a log-probability of {now:.5g} nats a token; a uniform guess over the vocabulary has "
                    f"{uniform:.4g}: the model no longer models text",
                    cures=cures("lower optim.learning_rate", "raise loss.beta"),
                    value=now,
                    limit=limit,
                    alarm=True,
                )
        return None

    return check


def _was_there(history: History, line: Line, prefix: str, side: str, facts: Facts) -> bool:
    """Whether these very rows have hardly fallen since the start; those of the first step may have been easier."""
    now, length = side_moved(history, line, prefix, side, facts), line.values.get(f"{prefix}/lengths{side}")
    return now is not None and bool(length) and now > -FALLEN * (length or 1.0)


def runaway(prefix: str) -> Check:
    """Chosen completions far below where they started.

    Args:
        prefix: "train" or "eval", the rows that are looked at.
    """

    def check(history: History, facts: Facts) -> Danger | None:
        line = (history.training if prefix == "train" else history.held_out)[-1]
        for side in ("/chosen", ""):
            now, length = (
                side_moved(history, line, prefix, side, facts),
                line.values.get(f"{prefix}/lengths{side}"),
            )
            if now is None or not length:
                continue
            limit = -max(RUNAWAY_AT_LEAST, RUNAWAY_PER_TOKEN * length)
            if now < limit:
                text = f"{side[1:]} completions" if side else "completions"
                return Danger(
                    step=line.step,
                    name="runaway",
                    message=f"{text} lost {-now:.4g} nats since the start, {-now / length:.3g} a token: the run has left the text "
                    "it was to learn from",
                    cures=cures("lower optim.learning_rate", "raise loss.beta"),
                    value=now,
                    limit=limit,
                    alarm=True,
                )
        return None

    return check


def no_gradient(step: int, is_last: bool, history: History, facts: Facts, loss: float) -> Danger | None:
    """Several steps, or all there were, with a gradient of exactly zero.

    A hinge is flat where all pairs are told apart; that is its end and no fault.
    """
    still = history.still_steps
    if not still or (still < STILL and not (is_last and still == step)) or (facts.loss == "hinge" and loss == 0):
        return None
    always = still == step
    if always and facts.contradicting:
        cause = Cure("set", "data.on_conflict=drop", ": labels of one half leave nothing to learn")
    elif always and facts.of_masks:
        cause = Cure("raise", "optim.learning_rate")
    elif always:
        cause = Cure("set", "data.on_tie=drop", ", since ties (and sides that are one text) leave nothing to learn")
    else:
        cause = Cure("lower", "optim.learning_rate")
    return Danger(
        step=step,
        name="no_gradient",
        message=f"the gradient was exactly zero in the last {still} steps (loss {loss:.4g}): nothing is learned"
        + ("" if always else "; the policy is so far out that the loss is flat"),
        cures=cures(cause, *(() if always else ("lower loss.beta",))),
        value=0.0,
        limit=0.0,
        alarm=True,
    )
