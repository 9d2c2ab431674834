"""May this judge replace a person? The alternative annotator test (Calderon, Reichart and Dror 2025, arXiv 2501.10970).

Each person is left out in turn. On every item it voted on, the judge and the left-out person are both compared with the
people that remain; the judge "wins" an item where it agrees with them at least as much. With W_f and W_h the two wins,

    H0: E W_f <= E W_h - epsilon          one-sided paired t-test on d = W_h - W_f

is tested for each person, and Benjamini-Yekutieli bounds the false discovery rate. The judge passes if it wins against at
least half of the people. epsilon is what a person's time is worth: 0.2 where people are experts, 0.1 where they are a crowd.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import false_discovery_control, ttest_1samp

from exptilt.evaluation.intervals import Floats
from exptilt.evaluation.result import Panel

MIN_ITEMS = 30
"""Items a person needs for the t-test; the paper's advice."""
MIN_PEOPLE = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class AlternativeTest(Panel):
    """Whether a judge may stand in for a person."""

    passes: bool
    winning_rate: float
    """Share of people against whom the judge wins after correction."""
    advantage: float
    """Mean probability that the judge is at least as good as a person."""
    epsilon: float
    p_values: tuple[float, ...]
    """One for each person tested, corrected."""
    left_out: int
    """People with fewer than 30 items that others voted on, who are not tested."""


def alternative_test(
    judge: ArrayLike, people: ArrayLike, epsilon: float = 0.1, level: float = 0.05, min_items: int = MIN_ITEMS
) -> AlternativeTest | None:
    """Test a judge against people.

    Args:
        judge: (I,) the judge's categories, NaN where it gave none.
        people: (I, R) theirs.
        epsilon: how much worse the judge may be than a person, in [0, 1).
        level: the false discovery rate.
        min_items: people with fewer items are not tested.

    Returns:
        None where there are fewer than three people, or none has enough items.
    """
    if not 0 <= epsilon < 1:
        raise ValueError(f"epsilon must be in [0, 1), got {epsilon}")
    machine, table = np.asarray(judge, dtype=np.float64), np.asarray(people, dtype=np.float64)
    wins = [_wins(machine, table[:, r], np.delete(table, r, axis=1)) for r in range(table.shape[1])]
    tested = [pair for pair in wins if len(pair[0]) >= min_items]
    if table.shape[1] < MIN_PEOPLE or not tested:
        return None
    raw = [_p_value(human - mine, epsilon) for mine, human in tested]
    corrected = false_discovery_control(raw, method="by")
    return AlternativeTest(
        passes=bool(np.mean(corrected < level) >= 0.5),
        winning_rate=float(np.mean(corrected < level)),
        advantage=float(np.mean([mine.mean() for mine, _ in tested])),
        epsilon=epsilon,
        p_values=tuple(map(float, corrected)),
        left_out=len(wins) - len(tested),
    )


def _wins(judge: Floats, person: Floats, others: Floats) -> tuple[Floats, Floats]:
    """(N,) where the judge is at least as close to the others as the person, and the reverse."""
    rows = ~np.isnan(judge) & ~np.isnan(person) & (~np.isnan(others)).any(axis=1)
    rest = others[rows]
    voted = (~np.isnan(rest)).sum(axis=1)
    mine = (rest == judge[rows, None]).sum(axis=1) / voted
    theirs = (rest == person[rows, None]).sum(axis=1) / voted
    return (mine >= theirs).astype(np.float64), (theirs >= mine).astype(np.float64)


def _p_value(difference: Floats, epsilon: float) -> float:
    if np.ptp(difference) == 0:
        return float(difference[0] >= epsilon)
    return float(ttest_1samp(difference, epsilon, alternative="less").pvalue)
