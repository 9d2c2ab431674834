"""Do raters agree? Raw agreement means little without its chance level: the paper's 86 % is 75 % chance.

Votes stand in a table of items by raters; an entry is a category (0, 1, 2, ...) or NaN where the rater did not vote.
Intervals are clustered by item and by rater, since neither is fixed; see `two_way`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from exptilt.evaluation.intervals import DEFAULT, Floats, Resampling, paired_difference
from exptilt.evaluation.judged.two_way import ENOUGH_RATERS, jackknife_error, jackknife_variance, two_way_error
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
    one, other = np.asarray(first), np.asarray(second)
    categories = np.unique(np.concatenate([one, other]))
    shares = [(votes[:, None] == categories).mean(axis=0) for votes in (one, other)]
    chance = float(shares[0] @ shares[1])
    return float((np.mean(one == other) - chance) / (1 - chance)) if chance < 1 else float("nan")


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
    return float(_alpha(_differing(counts).sum(), counts.sum(axis=0)))


def alpha_interval(votes: ArrayLike, resampling: Resampling = DEFAULT) -> Estimate:
    """Krippendorff's alpha with an interval clustered by item and, where there are at least 5 raters, by rater.

    Both errors are the jackknife's. The variance over raters holds that of items as well: it is measured by giving every
    item's votes to raters at random, and what is above it is added.
    """
    table = np.asarray(votes, dtype=np.float64)
    value = krippendorff_alpha(table)
    dealt = np.random.default_rng(resampling.seed)
    by_chance = (
        np.mean([jackknife_variance(_alpha_without_raters(_dealt(table, dealt))) for _ in range(_DEALS)])
        if table.shape[1] >= ENOUGH_RATERS
        else 0.0
    )
    error = jackknife_error(_alpha_without_items(_counts(table)), _alpha_without_raters(table), float(by_chance))
    return error.symmetric(value, resampling, within=(-1.0, 1.0))


_DEALS = 20


def _dealt(table: Floats, rng: np.random.Generator) -> Floats:
    """Every item's votes given to raters at random, busy raters more often, so that raters do not differ."""
    voted = ~np.isnan(table)
    busy = np.maximum(voted.sum(axis=0), 1e-9)
    raters = np.argsort(-(rng.random(table.shape) ** (1 / busy)), axis=1)  # drawn by weight, without replacement
    votes = np.take_along_axis(table, np.argsort(~voted, axis=1, kind="stable"), axis=1)  # of each item, first
    dealt = np.empty_like(table)
    np.put_along_axis(dealt, raters, votes, axis=1)
    return dealt


def _alpha_without_items(counts: Floats) -> Floats:
    differing, totals = _differing(counts), counts.sum(axis=0)
    return _alpha(differing.sum() - differing, totals - counts)


def _alpha_without_raters(table: Floats) -> Floats:
    return np.array([krippendorff_alpha(np.delete(table, k, axis=1)) for k in range(table.shape[1])])


def pair_agreement(first: ArrayLike, second: ArrayLike, resampling: Resampling = DEFAULT) -> PairAgreement:
    """Agreement, chance level and kappa of two raters on the items both voted on.

    Args:
        first: (I,) categories of one rater, NaN where it did not vote.
        second: (I,) or (I, R) categories of one or several others; all their votes are compared.
        resampling: level of the intervals, which are clustered by item and rater.

    Raises:
        ValueError: if no item has votes of both.
    """
    one = np.asarray(first, dtype=np.float64)
    others = np.asarray(second, dtype=np.float64).reshape(len(one), -1)
    item, rater = np.nonzero(~np.isnan(others) & ~np.isnan(one)[:, None])
    if not len(item):
        raise ValueError("the raters have no item in common")
    a, b = one[item], others[item, rater]
    categories = np.unique(np.concatenate([a, b]))
    mine, theirs = ((votes[:, None] == categories).mean(axis=0) for votes in (a, b))
    agreement, chance = float(np.mean(a == b)), float(mine @ theirs)
    kappa = (agreement - chance) / (1 - chance) if chance < 1 else float("nan")
    of_agreement = (a == b) - agreement
    of_chance = theirs[np.searchsorted(categories, a)] + mine[np.searchsorted(categories, b)] - 2 * chance
    error = two_way_error(of_agreement, item, rater)
    spread = (of_agreement - (1 - kappa) * of_chance) / (1 - chance) if chance < 1 else np.zeros(len(a))
    return PairAgreement(
        agreement=error.share(agreement, len(a), resampling),
        chance=chance,
        kappa=two_way_error(spread, item, rater).symmetric(kappa, resampling, within=(-1.0, 1.0)),
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


def in_their_stead(judge: ArrayLike, people: ArrayLike, resampling: Resampling = DEFAULT) -> dict[int, Estimate]:
    """For each person left out: how much oftener the judge agrees with the majority of the others than the person does,
    on the items that both voted on. A judge as good as people is about 0 everywhere.

    Args:
        judge: (I,) categories.
        people: (I, R) theirs.
        resampling: bootstrap over items.

    Example:
        >>> found = in_their_stead([0, 1, 1], [[1, 0, 0], [1, 1, 1], [1, 1, 1]])
        >>> {person: round(gain.value, 2) for person, gain in found.items()}
        {0: 0.33, 1: 0.0, 2: 0.0}
    """  # noqa: D205
    one, table = np.asarray(judge, dtype=np.float64), np.asarray(people, dtype=np.float64)
    gains = {}
    for r in range(table.shape[1]):
        others = np.delete(table, r, axis=1)
        both = ~np.isnan(one) & ~np.isnan(table[:, r]) & (~np.isnan(others)).any(axis=1)
        if both.any():
            rest = others[both]
            gains[r] = paired_difference(
                _hits(one[both], rest), _hits(table[both, r], rest), np.flatnonzero(both), resampling, most=1.0
            )
    return gains


def majority_agreement(first: ArrayLike, others: ArrayLike) -> float:
    """How often one rater's vote is the majority of the others'; a tie among them counts by its share. NaN: no item.

    Args:
        first: (I,) categories.
        others: (I, R) categories.
    """
    one, table = np.asarray(first, dtype=np.float64), np.asarray(others, dtype=np.float64)
    rows = ~np.isnan(one) & (~np.isnan(table)).any(axis=1)
    return float(_hits(one[rows], table[rows]).mean()) if rows.any() else float("nan")


def _hits(votes: Floats, others: Floats) -> Floats:
    """(I,) 1 where a vote is the majority of the others', its share where they are even."""
    categories = np.unique(np.concatenate([votes, others[~np.isnan(others)]]))
    counts = (others[:, :, None] == categories).sum(axis=1)
    top = counts == counts.max(axis=1, keepdims=True)
    mine = np.searchsorted(categories, votes)
    return np.asarray(top[np.arange(len(votes)), mine] / top.sum(axis=1))


def _counts(votes: Floats) -> Floats:
    """(I, K) how often each category was given to each item, of items with at least two votes."""
    categories = np.unique(votes[~np.isnan(votes)])
    counts = (votes[:, :, None] == categories).sum(axis=1).astype(np.float64)
    return np.asarray(counts[counts.sum(axis=1) >= 2])


def _differing(counts: Floats) -> Floats:
    """(I,) pairs of votes on each item that differ, each vote counting once."""
    number = counts.sum(axis=1)
    return np.asarray((number**2 - (counts**2).sum(axis=1)) / (number - 1))


def _alpha(differing: Floats, totals: Floats) -> Floats:
    """Alpha from (S,) sums of differing pairs and (S, K) how often each category was given."""
    all_votes = totals.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = (all_votes**2 - (totals**2).sum(axis=-1)) / (all_votes - 1)
        return np.asarray(np.where(expected > 0, 1 - differing / expected, np.nan))
