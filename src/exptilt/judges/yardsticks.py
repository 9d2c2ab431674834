"""Judges that know nothing or everything: what a real judge must be compared with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from exptilt.judges.slots import BOTH_ORDERS, asked, in_callers_order
from exptilt.preferences import Comparison, Outcome, Verdict

YARDSTICKS = ("longest", "coin", "oracle")
"""Names of the judges that every real one is compared with."""


@dataclass(frozen=True)
class Longest:
    """Prefers the longer answer; on AlpacaFarm it agrees with people on 62 %, single people do on 66 %."""

    name: str = "longest"
    identity: str = "longest: characters"

    def __call__(self, comparisons: Iterable[Comparison]) -> Iterator[Verdict]:
        """Verdicts in both orders."""
        for comparison in comparisons:
            yield from by_scores(comparison, (len(comparison.answers[0]), len(comparison.answers[1])))


@dataclass(frozen=True)
class Coin:
    """Tosses a coin for each comparison and order."""

    seed: int = 0
    name: str = "coin"

    @property
    def identity(self) -> str:
        """The seed decides."""
        return f"coin: seed {self.seed}"

    def __call__(self, comparisons: Iterable[Comparison]) -> Iterator[Verdict]:
        """Verdicts in both orders."""
        for comparison in comparisons:
            for order in BOTH_ORDERS:
                content = f"{asked(comparison, order, 0, self.seed).comparison.id} {order} {self.seed}"
                heads = hashlib.sha256(content.encode()).digest()[0] < 128
                outcome: Outcome = "first" if heads else "second"
                shown = in_callers_order(comparison, order)
                yield Verdict(comparison=comparison.id, order=shown, outcome=outcome)


@dataclass(frozen=True)
class Oracle:
    """Knows the label: the ceiling of a benchmark."""

    better: Mapping[str, str | None]
    """The better answer by comparison; None is a tie."""
    name: str = "oracle"
    identity: str = "oracle: the labels"

    def __call__(self, comparisons: Iterable[Comparison]) -> Iterator[Verdict]:
        """Verdicts in both orders; a comparison without a label is unscored."""
        for comparison in comparisons:
            if comparison.id not in self.better:
                yield from both(comparison, "unscored", "unscored")
            else:
                better = self.better[comparison.id]
                yield from by_scores(comparison, tuple(float(answer == better) for answer in comparison.answers))


def by_scores(comparison: Comparison, scores: tuple[float, ...]) -> Iterator[Verdict]:
    """Verdicts in both orders by a number for each of two answers; NaN is unscored.

    Example:
        >>> [verdict.winner for verdict in by_scores(Comparison("2 + 2?", ("5", "4")), (0.0, 1.0))]
        [1, 1]
    """
    one, other = scores
    if one != one or other != other:
        yield from both(comparison, "unscored", "unscored")
    elif one == other:
        yield from both(comparison, "tie", "tie")
    else:
        yield from both(comparison, *(("first", "second") if one > other else ("second", "first")))


def both(comparison: Comparison, as_given: Outcome, swapped: Outcome) -> Iterator[Verdict]:
    """Two verdicts: on the answers in the comparison's order, and swapped."""
    yield Verdict(comparison=comparison.id, order=(0, 1), outcome=as_given)
    yield Verdict(comparison=comparison.id, order=(1, 0), outcome=swapped)
