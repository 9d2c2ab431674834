"""Dangers that the rows of a run show before training has changed anything."""

from __future__ import annotations

from exptilt.training.guards.cautions import Facts
from exptilt.training.guards.cures import Cure, Danger, cures

CONTRADICTING = 0.1
"""Share of rows."""
FEW_ROWS = 100
MANY_EPOCHS = 5.0
"""Published preference runs take one to three passes over thousands of rows."""


def rows_contradict(facts: Facts) -> bool:
    """Whether so many rows contradict others that a run cannot be judged by how far it moves."""
    return bool(facts.rows) and facts.contradicting >= CONTRADICTING * (facts.rows or 0)


def contradictory(step: int, facts: Facts) -> Danger | None:
    """Rows that contradict each other hold the policy where it is, whatever the learning rate."""
    if not rows_contradict(facts):
        return None
    return Danger(
        step=step,
        name="contradiction",
        message=f"{facts.contradicting} rows say the opposite of another one, and {facts.rows} are trained on: they hold each "
        "other back, so the policy learns little from them",
        cures=cures(Cure("set", "data.on_conflict=drop", ", or settle the labels")),
        value=facts.contradicting,
        limit=CONTRADICTING * (facts.rows or 0),
    )


def repeated(step: int, epochs: float, facts: Facts) -> Danger | None:
    """Few rows that are seen often are learned by heart; said before it has happened."""
    if not facts.rows or facts.rows >= FEW_ROWS or epochs <= MANY_EPOCHS:
        return None
    rows = "one row is" if facts.rows == 1 else f"{facts.rows} rows are"
    return Danger(
        step=step,
        name="repetition",
        message=f"{rows} trained on {epochs:.3g} times: the run will learn {'it' if facts.rows == 1 else 'them'} by heart, and "
        "what it does elsewhere is left to chance",
        cures=cures(Cure("lower", "train.epochs", f", now {epochs:.3g}")),
        value=epochs,
        limit=MANY_EPOCHS,
    )
