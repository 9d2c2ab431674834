"""Win rates of one policy against another, and how much of them is the slot.

The headline is the swap-average: the mean over both orders. A judge that leans toward a slot pulls it toward one half, so
the slot-corrected rate stands beside it. Dropping prompts on which the two orders disagree is what others do; it
exaggerates (.732 for a truth of .622 in the simulation of the tests) and is shown, never used.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from exptilt.evaluation.intervals import DEFAULT, Floats, Resampling, divide, share
from exptilt.evaluation.judged.judgements import Judgements
from exptilt.evaluation.result import Panel
from exptilt.run_folder.estimate_record import Estimate

TOLERATED_UNSCORED = 0.05
"""Above this share of verdicts that are missing there is no headline, only bounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WinRates(Panel):
    """Everything about one policy against another by one judge."""

    swap_average: Estimate | None
    """Mean over the two orders; None where more than 5 % of the verdicts are missing."""
    slot_corrected: Estimate | None
    """sigma((logit p1 + logit p2) / 2) of the rates p1 where A was shown first and p2 where it was second."""
    shown_first: Estimate | None
    """A's rate where it was shown first."""
    shown_second: Estimate | None
    """A's rate where it was shown second."""
    consistent: Estimate | None
    """Share of prompts asked in both orders on which the same answer is preferred."""
    without_inconsistent: Estimate | None
    """A's rate on those prompts alone: exaggerated, for comparison with tools that report it."""
    ties: Estimate | None
    lower_bound: Estimate
    """If A had lost every missing verdict."""
    upper_bound: Estimate
    """If A had won every missing verdict."""
    unscored: int
    verdicts: int


def win_rates(asked: Judgements, resampling: Resampling = DEFAULT) -> WinRates:
    """Win rates of A with intervals clustered by prompt.

    Args:
        asked: the verdicts.
        resampling: bootstrap over prompts.

    Example:
        >>> asked = Judgements(["p", "p", "q", "q"], [1, 1, 1, 0], [True, False, True, False])
        >>> found = win_rates(asked)
        >>> found.swap_average.value, found.consistent.value, round(found.slot_corrected.value, 2)
        (0.75, 0.5, 0.69)
    """
    wins, scored = np.asarray(asked.wins), asked.scored
    tie = np.where(scored, wins == 0.5, 0.0)
    counts, sums = asked.by_slot(scored.astype(np.float64)), asked.by_slot(np.where(scored, wins, 0.0))
    hidden = asked.share_unscored > TOLERATED_UNSCORED
    count, soft = asked.clusters.count, asked.is_soft

    def rate(above: Floats, below: Floats) -> Estimate | None:
        return (
            share(lambda w: divide(w @ above, w @ below), count, _number(below.sum(), soft), resampling)
            if below.any()
            else None
        )

    same, both, won = _consistency(sums, counts)
    return WinRates(
        swap_average=None if hidden else _swap_average(sums, counts, resampling, soft),
        slot_corrected=None if hidden else _slot_corrected(sums, counts, resampling, soft),
        shown_first=None if hidden else rate(sums[0], counts[0]),
        shown_second=None if hidden else rate(sums[1], counts[1]),
        consistent=rate(same, both),
        without_inconsistent=None if hidden else rate(won, same),
        ties=rate(asked.clusters.sums(tie), asked.clusters.sums(scored)),
        lower_bound=_bound(asked, 0.0, resampling),
        upper_bound=_bound(asked, 1.0, resampling),
        unscored=int((~scored).sum()),
        verdicts=len(wins),
    )


def by_length_gap(
    asked: Judgements, edges: tuple[float, ...] = (-0.5, 0.5), resampling: Resampling = DEFAULT
) -> list[tuple[str, Estimate | None]]:
    """A's rate where its answer is shorter, about as long, and longer.

    Args:
        asked: verdicts with a gap.
        edges: of the bins, in standard deviations of the gap about 0.
        resampling: bootstrap over prompts.
    """
    if asked.gap is None:
        raise ValueError("the lengths of the answers are not known")
    gap = np.asarray(asked.gap)
    spread = float(np.sqrt(np.mean(gap**2))) or 1.0
    bins = np.digitize(gap / spread, edges)
    names = ["shorter", "about as long", "longer"] if len(edges) == 2 else [f"bin {k}" for k in range(len(edges) + 1)]
    return [
        (name, win_rates(asked.where(bins == k), resampling).swap_average if (bins == k).any() else None)
        for k, name in enumerate(names)
    ]


def _number(verdicts: float, soft: bool) -> int:
    """How many coins at most the verdicts are worth: their number, but a probability may be worth more than a coin."""
    return _WITHOUT_BOUND if soft else round(verdicts)


_WITHOUT_BOUND = 10**9


def _swap_average(
    sums: tuple[Floats, Floats], counts: tuple[Floats, Floats], resampling: Resampling, soft: bool
) -> Estimate:
    def statistic(weights: Floats) -> Floats:
        first, second = (divide(weights @ s, weights @ n) for s, n in zip(sums, counts, strict=True))
        first, second = np.where(np.isnan(first), second, first), np.where(np.isnan(second), first, second)
        return np.asarray((first + second) / 2)  # a resample may hold one order alone

    if not (counts[0].any() and counts[1].any()):
        total, number = sums[0] + sums[1], counts[0] + counts[1]
        return share(lambda w: divide(w @ total, w @ number), len(total), _number(number.sum(), soft), resampling)
    return share(statistic, len(counts[0]), _number(counts[0].sum() + counts[1].sum(), soft), resampling)


def _slot_corrected(
    sums: tuple[Floats, Floats], counts: tuple[Floats, Floats], resampling: Resampling, soft: bool
) -> Estimate | None:
    if not (counts[0].any() and counts[1].any()):
        return None

    def statistic(weights: Floats) -> Floats:
        odds = [_log_odds(weights @ s, weights @ n) for s, n in zip(sums, counts, strict=True)]
        return np.asarray(1 / (1 + np.exp(-(odds[0] + odds[1]) / 2)))

    return share(statistic, len(counts[0]), _number(counts[0].sum() + counts[1].sum(), soft), resampling)


def _log_odds(won: Floats, asked: Floats) -> Floats:
    """Log-odds that stay finite where one side won everything: half a win is added to each."""
    extreme = (won <= 0) | (won >= asked)
    added = np.where(extreme, 0.5, 0.0)
    return np.asarray(np.where(asked > 0, np.log((won + added) / np.maximum(asked - won + added, 1e-300)), np.nan))


def _consistency(sums: tuple[Floats, Floats], counts: tuple[Floats, Floats]) -> tuple[Floats, Floats, Floats]:
    """(C,) prompts on which both orders agree, that were asked in both, and that A won of those that agree."""
    both = (counts[0] > 0) & (counts[1] > 0)
    leaning = [np.sign(np.where(n > 0, s - n / 2, 0.0)) for s, n in zip(sums, counts, strict=True)]
    same = both & (leaning[0] == leaning[1])
    return same.astype(np.float64), both.astype(np.float64), np.where(same, (leaning[0] + 1) / 2, 0.0)


def _bound(asked: Judgements, missing: float, resampling: Resampling) -> Estimate:
    wins = np.where(asked.scored, np.asarray(asked.wins), missing)
    ones = np.ones(len(wins))
    return _swap_average(asked.by_slot(wins), asked.by_slot(ones), resampling, asked.is_soft)
