"""How far both sides moved from the start of the run, measured like with like."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean

from exptilt.training.guards.cautions import Facts, History, Line


@dataclass(frozen=True)
class Moved:
    """How far both sides of the pairs moved, nats a completion."""

    step: int
    chosen: float
    rejected: float
    length: float
    """Counted tokens of a chosen completion."""

    @property
    def gap(self) -> float:
        """By how much chosen is ahead."""
        return self.chosen - self.rejected


def moved(history: History, prefix: str, facts: Facts, last: int = 1) -> Moved | None:
    """Average over the latest lines; None where it is not measured."""
    lines = history.training if prefix == "train" else history.held_out
    measured = []
    for line in lines[-last:]:
        sides = [side_moved(history, line, prefix, f"/{side}", facts) for side in ("chosen", "rejected")]
        length = line.values.get(f"{prefix}/lengths/chosen")
        if None not in sides and length:
            measured.append([*sides, length])
    return Moved(lines[-1].step, *(mean(column) for column in zip(*measured, strict=True))) if measured else None


def side_moved(history: History, line: Line, prefix: str, side: str, facts: Facts) -> float | None:
    """By how many nats a completion moved since the start of the run.

    If the reference is the start, displacement is the answer. Otherwise the value at the start is subtracted. For held-out
    rows this is exact, since they stay the same. Training rows change with every step, so they need a reference.
    """
    now = line.values.get(f"{prefix}/displacement{side}")
    if now is not None and facts.own_reference:
        return now
    start = history.start_of(prefix)
    name = f"{prefix}/{'displacement' if prefix == 'train' else 'logps'}{side}"
    if start is None or name not in start.values or name not in line.values:
        return None
    return line.values[name] - start.values[name]
