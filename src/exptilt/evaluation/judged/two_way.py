"""Errors of numbers made of votes, where an item has several votes and a rater gives many: neither is independent.

    V = V_items + V_raters - V_votes

V_items adds up the influences of the votes on each item before it squares them, V_raters those of each rater, and V_votes
squares each, since both count it. With fewer than 5 raters nothing is known of raters in general: then V = V_items, and the
interval is about these raters. Degrees of freedom are Satterthwaite's.

Source: Cameron, Gelbach and Miller (2011), Robust Inference With Multiway Clustering. Deviation: V is never below V_items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t

from exptilt.evaluation.intervals import DEFAULT, Clusters, Floats, Prompts, Resampling, finite, wilson
from exptilt.run_folder.estimate_record import Estimate

ENOUGH_RATERS = 5
"""Fewer raters say nothing about raters in general; intervals are then about these raters alone."""


@dataclass(frozen=True)
class TwoWayError:
    """The squared standard error of one number, and how well it is known."""

    variance: float
    freedom: float
    items: int

    def quantile(self, level: float) -> float:
        """Student's."""
        return float(t.ppf((1 + level) / 2, self.freedom))

    def symmetric(self, value: float, resampling: Resampling, within: tuple[float, float] | None = None) -> Estimate:
        """Value +- quantile * error; no ends where there are fewer than two items or no spread."""
        if self.items < 2 or not self.variance > 0 or not np.isfinite(value):
            return Estimate(value=float(value), level=resampling.level, n=self.items)
        reach = self.quantile(resampling.level) * self.variance**0.5
        low, high = value - reach, value + reach
        if within is not None:
            low, high = max(low, within[0]), min(high, within[1])
        return Estimate(value=float(value), low=low, high=high, level=resampling.level, n=self.items)

    def share(self, value: float, votes: int, resampling: Resampling) -> Estimate:
        """Wilson's interval with an effective number of votes, for a value in [0, 1]; see `intervals.share`."""
        if self.items < 2:
            return Estimate(value=float(value), level=resampling.level, n=self.items)
        spread = value * (1 - value)
        effective = min(spread / self.variance, votes) if self.variance > 1e-12 and spread > 0 else self.items
        found = wilson(
            value * effective, max(effective, 1.0), resampling.level, quantile=self.quantile(resampling.level)
        )
        return found.model_copy(update={"value": float(value), "n": self.items})


def two_way_error(influence: ArrayLike, items: Prompts, raters: Prompts) -> TwoWayError:
    """The error of a number to which vote k contributes influence[k] / N.

    Args:
        influence: (N,) about 0; for a mean, the value minus the mean.
        items: (N,) the item of each vote.
        raters: (N,) who gave it.
    """
    values, rows, people = finite(influence, "influence"), Clusters(items), Clusters(raters)
    number = len(values)
    by_item, freedom = _variance(rows.sums(values), number), float(max(rows.count - 1, 1))
    if people.count < ENOUGH_RATERS:
        return TwoWayError(by_item, freedom, rows.count)
    added = max(_variance(people.sums(values), number) - _variance(values, number), 0.0)
    return TwoWayError(by_item + added, _satterthwaite(by_item, rows.count, added, people.count), rows.count)


def two_way_mean(
    values: ArrayLike,
    items: Prompts,
    raters: Prompts,
    resampling: Resampling = DEFAULT,
    within: tuple[float, float] | None = None,
) -> Estimate:
    """Mean over votes.

    Args:
        values: (N,) one for each vote.
        items: (N,) the item of each.
        raters: (N,) who gave it.
        resampling: its level; nothing is resampled.
        within: the least and the most the mean can be.

    Example:
        >>> print(two_way_mean([1.0, 0.0, 1.0, 1.0], items=[1, 1, 2, 3], raters=["anna", "ben", "anna", "ben"]))
        0.750 [-0.057, 1.557]
    """
    rows = finite(values, "values")
    middle = float(rows.mean())
    return two_way_error(rows - middle, items, raters).symmetric(middle, resampling, within)


def jackknife_error(without_item: Floats, without_rater: Floats, by_chance: float) -> TwoWayError:
    """The error of a number that is no mean of votes, from its values with one item, and with one rater, left out.

    Args:
        without_item: (I,) values.
        without_rater: (R,) values; fewer than 5 are not used.
        by_chance: the jackknife variance over raters where raters do not differ (`jackknife_variance`), which the
            items' variance holds already.
    """
    by_item, items = jackknife_variance(without_item), len(without_item)
    if len(without_rater) < ENOUGH_RATERS:
        return TwoWayError(by_item, float(max(items - 1, 1)), items)
    added = max(jackknife_variance(without_rater) - by_chance, 0.0)
    return TwoWayError(by_item + added, _satterthwaite(by_item, items, added, len(without_rater)), items)


def jackknife_variance(without: Floats) -> float:
    """(U - 1) / U times the sum of squares about the mean, of U values with one unit left out each."""
    known = without[np.isfinite(without)]
    if len(known) < 2:
        return 0.0
    return float((len(known) - 1) / len(known) * ((known - known.mean()) ** 2).sum())


def _variance(sums: Floats, number: int) -> float:
    units = len(sums)
    return float(units / max(units - 1, 1) * (sums**2).sum() / number**2)


def _satterthwaite(one: float, units: int, other: float, others: int) -> float:
    below = one**2 / max(units - 1, 1) + other**2 / max(others - 1, 1)
    return (one + other) ** 2 / below if below > 0 else float(max(units - 1, 1))
