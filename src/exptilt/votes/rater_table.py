"""Votes as a table of items by raters: the input of every agreement, for `agree` and for the people's page."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exptilt.preferences import Comparison
from exptilt.votes.vote_records import Rater, Vote

FIRST, SECOND, TIE = 0.0, 1.0, 2.0
"""Categories: the first of two sorted answers is better, the second, neither."""


@dataclass(frozen=True)
class RaterTable:
    """What each rater thinks of each comparison of two answers."""

    comparisons: list[Comparison]
    """(I,) with sorted answers."""
    raters: list[Rater]
    """(R,) people first."""
    shares: NDArray[np.float64]
    """(I, R) how far each rater is for the first answer, the mean of its votes; NaN where it has none."""

    @property
    def categories(self) -> NDArray[np.float64]:
        """(I, R) FIRST, SECOND or TIE; a judge whose two orders contradict each other says TIE."""
        # Comparisons with NaN are false, so what is missing stays missing.
        table = np.where(self.shares == 0.5, TIE, np.where(self.shares > 0.5, FIRST, SECOND))
        return np.where(np.isnan(self.shares), np.nan, table)

    @property
    def are_people(self) -> NDArray[np.bool_]:
        """(R,) which raters are people."""
        return np.array([rater.kind == "person" for rater in self.raters], dtype=bool)

    @property
    def longest(self) -> NDArray[np.float64]:
        """(I,) what a rater that prefers the longer answer would say."""
        gaps = np.array([len(one.answers[0]) - len(one.answers[1]) for one in self.comparisons])
        return np.where(gaps == 0, TIE, np.where(gaps > 0, FIRST, SECOND))


def rater_table(votes: Sequence[Vote], comparisons: Mapping[str, Comparison]) -> RaterTable:
    """Gather votes on two answers; skipped and unscored votes count for nothing.

    Args:
        votes: without those that were replaced.
        comparisons: by id.
    """
    gathered: dict[tuple[str, Rater], list[tuple[int, float]]] = defaultdict(list)
    for vote in votes:
        share = vote.first_share
        if share is not None:
            gathered[vote.comparison, vote.rater].append((vote.order[0], share))
    items = list(dict.fromkeys(comparison for comparison, _ in gathered))
    raters = sorted({rater for _, rater in gathered}, key=lambda r: (r.kind != "person", r.name, r.identity))
    shares = np.full((len(items), len(raters)), np.nan)
    row, column = {one: k for k, one in enumerate(items)}, {one: k for k, one in enumerate(raters)}
    for (comparison, rater), given in gathered.items():
        by_order: dict[int, list[float]] = defaultdict(list)
        for first, share in given:
            by_order[first].append(share)
        # Each order counts alike, however often it was asked.
        shares[row[comparison], column[rater]] = np.mean([np.mean(one) for one in by_order.values()])
    return RaterTable([comparisons[one] for one in items], raters, shares)
