"""Do raters agree? Raw agreement means little without its chance level: the paper's 86 % is 75 % chance.

Votes stand in a table of items by raters; an entry is a category (0, 1, 2, ...) or NaN where the rater did not vote.
Intervals draw items and raters anew, both, since neither is fixed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from exptilt.evaluation.intervals import DEFAULT, Floats, Resampling
from exptilt.evaluation.result import Panel
from exptilt.run_folder.estimate_record import Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class PairAgreement(Panel):
    """Two raters, or one rater and all people."""

    agreement: Estimate
    chance: float
    """Agreement of two raters with these shares who vote without looking."""
    kappa: Estimate
    """(agreement - chance) / (1 - chance)."""
    votes: int
    """Pairs of votes compared."""


def kappa_from_shares(agreement: float, first: float, second: float) -> float:
    """Cohen's kappa of two raters with two categories, from printed figures alone.

    Args:
        agreement: share of votes that match.
        first: share of the first category in the first rater's votes.
        second: the same of the second rater.

    Example:
        >>> round(kappa_from_shares(0.67, 0.54, 0.58), 2)  # GPT-4 (C) and people on DPO, Rafailov et al. 2023
        0.33
    """
    chance = first * second + (1 - first) * (1 - second)
    return (agreement - chance) / (1 - chance)


def cohens_kappa(first: ArrayLike, second: ArrayLike) -> float:
    """Cohen's kappa of two raters' categories; NaN where both only ever use one and the same.

    Example:
        >>> cohens_kappa([0, 0, 1, 1], [0, 1, 1, 1])
        0.5
    """
    agreement, chance = _agreement_and_chance(np.asarray(first), np.asarray(second), np.ones(len(np.asarray(first))))
    return float((agreement - chance) / (1 - chance)) if chance < 1 else float("nan")


def krippendorff_alpha(votes: ArrayLike) -> float:
    """Krippendorff's alpha for categories, with missing votes; items with one vote carry nothing.

        alpha = 1 - observed disagreement / expected disagreement

    Args:
        votes: (I, R) categories, NaN where a rater did not vote.

    Example:
        >>> krippendorff_alpha([[0, 0], [1, 1], [0, 1]])
        0.4444444444444444
    """
    counts = _counts(np.asarray(votes, dtype=np.float64))
    return float(_alpha(counts, np.ones((1, len(counts))))[0])


def alpha_interval(votes: ArrayLike, resampling: Resampling = DEFAULT) -> Estimate:
    """Krippendorff's alpha with an interval that draws items anew; raters too where there are at least 5."""
    table = np.asarray(votes, dtype=np.float64)
    value = krippendorff_alpha(table)
    rng = np.random.default_rng(resampling.seed)
    drawn = []
    for _ in range(resampling.num_resamples):
        rows = table[rng.integers(len(table), size=len(table))]
        if table.shape[1] >= _ENOUGH_RATERS:
            chosen = rng.integers(table.shape[1], size=table.shape[1])
            # The same rater twice would agree with itself: each counts once, by how often it was drawn.
            rows = rows[:, np.unique(chosen)]
        drawn.append(krippendorff_alpha(rows))
    return _interval(value, np.array(drawn), len(table), resampling)


_ENOUGH_RATERS = 5
"""Fewer raters say nothing about raters in general; intervals are then about these raters alone."""


def pair_agreement(first: ArrayLike, second: ArrayLike, resampling: Resampling = DEFAULT) -> PairAgreement:
    """Agreement, chance level and kappa of two raters on the items both voted on.

    Args:
        first: (I,) categories of one rater, NaN where it did not vote.
        second: (I,) or (I, R) categories of one or several others; all their votes are compared, and an item counts
            once in the bootstrap however many voted on it.
        resampling: bootstrap over items.

    Raises:
        ValueError: if no item has votes of both.
    """
    one = np.asarray(first, dtype=np.float64)
    others = np.asarray(second, dtype=np.float64).reshape(len(one), -1)
    item, rater = np.nonzero(~np.isnan(others) & ~np.isnan(one)[:, None])
    if not len(item):
        raise ValueError("the raters have no item in common")
    a, b = one[item], others[item, rater]
    present, index = np.unique(item, return_inverse=True)
    agreement, chance = _agreement_and_chance(a, b, np.ones(len(a)))
    rng = np.random.default_rng(resampling.seed)
    shares = np.empty((resampling.num_resamples, 2))
    for k in range(resampling.num_resamples):
        drawn = np.bincount(rng.integers(len(present), size=len(present)), minlength=len(present)).astype(np.float64)
        shares[k] = _agreement_and_chance(a, b, drawn[index])
    with np.errstate(divide="ignore", invalid="ignore"):
        kappas = (shares[:, 0] - shares[:, 1]) / (1 - shares[:, 1])
        kappa = (agreement - chance) / (1 - chance) if chance < 1 else float("nan")
    return PairAgreement(
        agreement=_interval(agreement, shares[:, 0], len(present), resampling),
        chance=float(chance),
        kappa=_interval(kappa, kappas, len(present), resampling),
        votes=len(a),
    )


def leave_one_out(votes: ArrayLike) -> dict[int, float]:
    """How often each rater agrees with the majority of the *others*; a tie among them counts by its share.

    Args:
        votes: (I, R) categories, NaN where a rater did not vote.

    Example:
        >>> leave_one_out([[0, 0, 1], [1, 1, 1]])
        {0: 0.75, 1: 0.75, 2: 0.5}
    """
    table = np.asarray(votes, dtype=np.float64)
    return {r: majority_agreement(table[:, r], np.delete(table, r, axis=1)) for r in range(table.shape[1])}


def majority_agreement(first: ArrayLike, others: ArrayLike) -> float:
    """How often one rater's vote is the majority of the others'; a tie among them counts by its share. NaN: no item.

    Args:
        first: (I,) categories.
        others: (I, R) categories.
    """
    one, table = np.asarray(first, dtype=np.float64), np.asarray(others, dtype=np.float64)
    rows = ~np.isnan(one) & (~np.isnan(table)).any(axis=1)
    hits = []
    for vote, row in zip(one[rows], table[rows], strict=True):
        category, count = np.unique(row[~np.isnan(row)], return_counts=True)
        top = category[count == count.max()]
        hits.append(float(vote in top) / len(top))
    return float(np.mean(hits)) if hits else float("nan")


def _agreement_and_chance(first: Floats, second: Floats, weights: Floats) -> tuple[float, float]:
    total = weights.sum()
    categories = np.unique(np.concatenate([first, second]))
    shares = [(weights @ (votes[:, None] == categories)) / total for votes in (first, second)]
    return float(weights @ (first == second) / total), float(shares[0] @ shares[1])


def _counts(votes: Floats) -> Floats:
    """(I, K) how often each category was given to each item, of items with at least two votes."""
    categories = np.unique(votes[~np.isnan(votes)])
    counts = (votes[:, :, None] == categories).sum(axis=1).astype(np.float64)
    return np.asarray(counts[counts.sum(axis=1) >= 2])


def _alpha(counts: Floats, weights: Floats) -> Floats:
    if not len(counts):
        return np.array([np.nan])
    number = counts.sum(axis=1)
    differing = (number**2 - (counts**2).sum(axis=1)) / (number - 1)
    totals = weights @ counts
    all_votes = totals.sum(axis=1)
    expected = (all_votes**2 - (totals**2).sum(axis=1)) / (all_votes - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(expected > 0, 1 - weights @ differing / expected, np.nan))


def _interval(value: float, drawn: Floats, count: int, resampling: Resampling) -> Estimate:
    known = drawn[np.isfinite(drawn)]
    if count < 2 or len(known) < 0.95 * len(drawn):
        return Estimate(value=float(value), level=resampling.level, n=count)
    low, high = np.quantile(known, [(1 - resampling.level) / 2, (1 + resampling.level) / 2])
    return Estimate(value=float(value), low=float(low), high=float(high), level=resampling.level, n=count)
