"""Intervals. The unit is the prompt: samples and pairs of one prompt are not independent of each other.

What they cover is the draw of prompts (and of what was sampled on them), never another seed of the training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, t

from exptilt.evaluation.measured_coverage import measured_coverage
from exptilt.run_folder.estimate_record import Estimate
from exptilt.settings.declaration import config

Floats = NDArray[np.float64]
Prompts = Sequence[Any] | NDArray[Any]
"""One label (index, id or text) for each row: the prompt it belongs to."""
Statistic = Callable[[Floats], Floats]
"""Takes (S, C) weights, how often each of C prompts was drawn in each of S resamples, and returns (S,) values."""

_CHUNK = 4_000_000
"""Weights held at a time, so that memory does not grow with the number of prompts."""
_TOLERATED = 0.05
"""Share of resamples in which a statistic may be undefined before its interval is called unknown."""
_FEWEST = 4
"""With fewer prompts there are too few different resamples, and Student's interval is taken."""
_FARTHEST = 4.0
"""Most a studentised quantile can be, in quantiles of Student's."""
_MOST_UNITS = 1000
"""Prompts resampled one by one; more are put into as many groups."""


@config
class Resampling:
    """How intervals are made: a studentised bootstrap over prompts."""

    level: float = 0.95
    """Share of intervals that hold the true value, in (0, 1)."""
    num_resamples: int = 1000
    """Times the prompts are drawn anew, >= 100."""
    seed: int = 0
    """Seed of the draws, >= 0; one seed gives all statistics of the same prompts the same draws."""

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError(f"level must be in (0, 1), got {self.level}")
        if self.num_resamples < 100:
            raise ValueError(f"num_resamples must be >= 100, got {self.num_resamples}")
        if self.seed < 0:
            raise ValueError(f"seed must be >= 0, got {self.seed}")


DEFAULT = Resampling()


class Clusters:
    """Which of C prompts each of N rows belongs to.

    Example:
        >>> clusters = Clusters(["a", "b", "a"])
        >>> clusters.count, clusters.sums([1.0, 2.0, 3.0]).tolist()
        (2, [4.0, 2.0])
    """

    def __init__(self, prompts: Prompts) -> None:
        labels = np.asarray(prompts)
        if labels.ndim != 1 or len(labels) == 0:
            raise ValueError(f"prompts must be a non-empty list with one label for each row, got shape {labels.shape}")
        unique, first, index = np.unique(labels, return_index=True, return_inverse=True)
        place = np.argsort(np.argsort(first))
        self.index: NDArray[np.int64] = place[index].astype(np.int64)
        """(N,) the prompt of each row, 0 .. C-1 in the order of first appearance."""
        self.count = len(first)
        self.labels = unique[np.argsort(first)]
        """(C,) in the order of first appearance."""

    def __len__(self) -> int:
        return len(self.index)

    def sums(self, values: ArrayLike) -> Floats:
        """(C,) or (C, ...) sums of row values over each prompt.

        Raises:
            ValueError: if a value is not finite or their number is not the number of rows.
        """
        rows = finite(values, "values")
        if len(rows) != len(self.index):
            raise ValueError(f"{len(rows)} values but {len(self.index)} prompt labels: give one label for each value")
        out = np.zeros((self.count, *rows.shape[1:]))
        np.add.at(out, self.index, rows)
        return out

    def means(self, values: ArrayLike) -> Floats:
        """(C,) means of row values over each prompt."""
        return np.asarray(self.sums(values) / np.bincount(self.index))

    def rectangle(self, values: ArrayLike) -> Floats:
        """(C, M) row values by prompt, where every prompt has M rows.

        Raises:
            ValueError: if prompts have different numbers of rows.
        """
        counts = np.bincount(self.index)
        if counts.min() != counts.max():
            raise ValueError(
                f"every prompt needs the same number of samples, but they have {counts.min()} to {counts.max()}"
            )
        return finite(values, "values")[np.argsort(self.index, kind="stable")].reshape(self.count, -1)


def finite(values: ArrayLike, what: str) -> Floats:
    """The values as float64, refused if one is NaN or infinite.

    Raises:
        ValueError: naming the first such position.
    """
    array = np.asarray(values, dtype=np.float64)
    bad = ~np.isfinite(array)
    if bad.any():
        where = ", ".join(str(int(axis[0])) for axis in np.nonzero(bad)) if array.ndim else "0"
        raise ValueError(
            f"{what} must be finite, but {int(bad.sum())} of {array.size} are not (the first at [{where}])"
        )
    return array


def bootstrap(
    statistic: Statistic, num_prompts: int, resampling: Resampling = DEFAULT, within: tuple[float, float] | None = None
) -> Estimate:
    """Studentised bootstrap interval of any statistic that can be written with prompt weights.

        [T - q(1 - a/2) SE, T - q(a/2) SE],   q the quantiles over resamples of (T* - T) / SE*

    SE is the jackknife's over prompts; SE* takes the same influences with the resample's weights, which is exact for a
    mean. So an interval is longer on the side to which values are skewed. No quantile is taken to be more than four
    times Student's, which 2 or 3 prompts get as it is. See `measured_coverage` for how often such intervals hold.

    The interval has no ends (None) where nothing is known of the spread: one prompt, all prompts alike, or a statistic
    that is undefined (NaN) in more than 5 % of the resamples.

    Args:
        statistic: (S, C) weights -> (S,) values; see `Statistic`.
        num_prompts: C. Above 1,000 they are put into 1,000 groups at random, which are then what is resampled.
        resampling: level, number of resamples, seed.
        within: the least and the most the statistic can be; ends are cut there.

    Source: Efron and Tibshirani (1993), section 12.5; Hall (1988) on why studentising corrects for skewness.

    Example:
        >>> heights = np.array([1.0, 2.0, 3.0, 4.0])
        >>> found = bootstrap(lambda weights: weights @ heights / weights.sum(axis=1), 4)
        >>> found.value, found.low < 2.5 < found.high
        (2.5, True)
    """
    return bootstraps(lambda weights: statistic(weights)[:, None], num_prompts, resampling, within)[0]


def bootstraps(
    statistic: Statistic, num_prompts: int, resampling: Resampling = DEFAULT, within: tuple[float, float] | None = None
) -> list[Estimate]:
    """As `bootstrap`, for K statistics of the same resamples: (S, C) weights -> (S, K) values."""
    value, influence = influences(statistic, num_prompts, resampling)
    units = len(influence)
    if units < 2:
        return [unknown(float(one), num_prompts, resampling) for one in value]
    groups = _groups(num_prompts, resampling)
    errors = _errors(np.ones((1, units)), influence)[0]
    drawn, drawn_errors = [], []
    for weights in resampled_weights(units, resampling):
        drawn.append(statistic(weights[:, groups]))
        drawn_errors.append(_errors(weights, influence))
    ends = studentised(value, errors, np.concatenate(drawn), np.concatenate(drawn_errors), units, resampling)
    return [interval(*one, num_prompts, resampling, within) for one in zip(value.tolist(), *ends, strict=True)]


def influences(statistic: Statistic, num_prompts: int, resampling: Resampling = DEFAULT) -> tuple[Floats, Floats]:
    """(K,) values and (G, K) influences of K statistics: C - 1 times what leaving a prompt (or group) out changes.

    With G units the squared standard error is sum(influence^2) / (G (G - 1)).
    """
    groups = _groups(num_prompts, resampling)
    units = int(groups.max()) + 1
    value = np.asarray(statistic(np.ones((1, num_prompts))))[0]
    if units < 2:
        return value, np.zeros((units, len(value)))
    rows = max(1, _CHUNK // num_prompts)
    left: list[Floats] = []
    for start in range(0, units, rows):
        out = np.arange(start, min(start + rows, units))
        left.append(statistic((groups[None, :] != out[:, None]).astype(np.float64)))
    without = np.concatenate(left)
    known = np.isfinite(without)
    centre = divide(np.where(known, without, 0.0).sum(axis=0), known.sum(axis=0).astype(np.float64))
    # A unit without which a statistic is not defined has no influence to speak of.
    return value, np.where(known, (units - 1) * (centre - np.where(known, without, 0.0)), 0.0)


def studentised(
    value: Floats, error: Floats, drawn: Floats, drawn_error: Floats, units: int, resampling: Resampling
) -> tuple[list[float], list[float]]:
    """Ends of the studentised interval of K statistics, NaN where they are not known.

    Args:
        value: (K,) on the data.
        error: (K,) standard errors.
        drawn: (S, K) on resamples.
        drawn_error: (S, K) standard errors there; 0 where a resample has no spread.
        units: prompts or groups of prompts, >= 2.
        resampling: level of the interval.
    """
    student = float(t.ppf((1 + resampling.level) / 2, units - 1))
    low, high = value - student * error, value + student * error
    if units >= _FEWEST:
        gone = drawn - value
        far = _FARTHEST * student
        ratios = np.divide(gone, drawn_error, out=np.sign(gone) * far, where=drawn_error > 1e-9 * error)
        ratios = np.clip(np.where(np.isfinite(gone), ratios, np.nan), -far, far)
        known = np.isfinite(ratios).mean(axis=0) >= 1 - _TOLERATED
        tails = [(1 - resampling.level) / 2, (1 + resampling.level) / 2]
        quantiles = np.full((2, len(value)), np.nan)
        if known.any():
            quantiles[:, known] = np.nanquantile(ratios[:, known], tails, axis=0)
        low, high = value - quantiles[1] * error, value - quantiles[0] * error
    alike = ~(error > 1e-12 * np.maximum(1.0, np.abs(value)))
    return np.where(alike, np.nan, low).tolist(), np.where(alike, np.nan, high).tolist()


def interval(
    value: float, low: float, high: float, n: int, resampling: Resampling, within: tuple[float, float] | None = None
) -> Estimate:
    """An estimate with the ends of a studentised interval, and how often such intervals hold the truth."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return unknown(value, n, resampling)
    if within is not None:
        low, high = max(low, within[0]), min(high, within[1])
    covers = measured_coverage("studentised", n, resampling.level)
    # A very skewed value may lie a hair outside of what its resamples say.
    return Estimate(
        value=value, low=min(low, value), high=max(high, value), level=resampling.level, n=n, coverage=covers
    )


def unknown(value: float, n: int, resampling: Resampling) -> Estimate:
    """An estimate of whose spread nothing is known."""
    return Estimate(value=value, low=None, high=None, level=resampling.level, n=n)


def _errors(weights: Floats, influence: Floats) -> Floats:
    """(S, K) standard errors of a mean of influences (G, K) under weights (S, G)."""
    units = len(influence)
    mean, square = weights @ influence / units, weights @ influence**2 / units
    return np.asarray(np.sqrt(np.maximum(square - mean**2, 0) / (units - 1)))


def _groups(num_prompts: int, resampling: Resampling) -> NDArray[np.int64]:
    """(C,) the unit of each prompt: itself, or one of 1,000 groups of about equal size."""
    if num_prompts <= _MOST_UNITS:
        return np.arange(num_prompts)
    return np.random.default_rng(resampling.seed).permutation(num_prompts) % _MOST_UNITS


def resampled_weights(num_prompts: int, resampling: Resampling = DEFAULT) -> Iterator[Floats]:
    """(S, C) counts of each prompt in resamples with replacement, in chunks; `num_resamples` rows in all."""
    rng = np.random.default_rng(resampling.seed)
    rows = max(1, _CHUNK // num_prompts)
    for start in range(0, resampling.num_resamples, rows):
        size = min(rows, resampling.num_resamples - start)
        drawn = rng.integers(num_prompts, size=(size, num_prompts)) + np.arange(size)[:, None] * num_prompts
        yield np.bincount(drawn.ravel(), minlength=size * num_prompts).reshape(size, num_prompts).astype(np.float64)


def ratio(numerator: ArrayLike, denominator: ArrayLike, prompts: Prompts, resampling: Resampling = DEFAULT) -> Estimate:
    """Sum over sum with an interval clustered by prompt; all three have one entry for each row.

    The studentised interval of `bootstrap`, with the ratio's own standard error in every resample.
    """
    clusters = Clusters(prompts)
    above, below = clusters.sums(numerator), clusters.sums(denominator)
    value, error = _ratio_and_error(np.ones((1, clusters.count)), above, below)
    if clusters.count < 2:
        return unknown(float(value[0]), clusters.count, resampling)
    drawn = [_ratio_and_error(weights, above, below) for weights in resampled_weights(clusters.count, resampling)]
    values, errors = (np.concatenate(part)[:, None] for part in zip(*drawn, strict=True))
    (low,), (high,) = studentised(value, error, values, errors, clusters.count, resampling)
    return interval(float(value[0]), low, high, clusters.count, resampling)


def _ratio_and_error(weights: Floats, above: Floats, below: Floats) -> tuple[Floats, Floats]:
    """(S,) sum over sum, and its standard error over prompts: sqrt(C / (C - 1) sum (a - T b)^2) / sum b."""
    total, units = weights @ below, len(below)
    value = divide(weights @ above, total)
    off = weights @ above**2 - 2 * value * (weights @ (above * below)) + value**2 * (weights @ below**2)
    # Differences of large sums: what is below rounding is no spread.
    off = np.where(off > 1e-13 * (weights @ above**2), off, 0.0)
    return value, divide(np.sqrt(off * units / max(units - 1, 1)), np.abs(total))


def mean(values: ArrayLike, prompts: Prompts, resampling: Resampling = DEFAULT) -> Estimate:
    """Mean of row values with an interval clustered by prompt.

    Example:
        >>> print(mean([1.0, 2.0, 3.0, 4.0], prompts=["a", "b", "c", "d"]))
        2.500 [0.264, 4.761] (covers 92 %)
    """
    return ratio(values, np.ones(len(np.asarray(values))), prompts, resampling)


def paired_difference(
    first: ArrayLike,
    second: ArrayLike,
    prompts: Prompts,
    resampling: Resampling = DEFAULT,
    *,
    most: float | None = None,
) -> Estimate:
    """Mean of first - second, row by row on the same prompts; narrower than the difference of two separate means.

    Args:
        first: (N,).
        second: (N,).
        prompts: (N,) the prompt of each row.
        resampling: level, number of resamples, seed.
        most: the largest difference a row can have, if there is one. Then two that agree on all of C prompts differ by
            at most `most` times the upper end of Wilson's interval of 0 out of C, and not by nothing.
    """
    gaps = finite(first, "first") - finite(second, "second")
    found = mean(gaps, prompts, resampling)
    if most is None or found.interval is not None or found.value is None or not found.n:
        return found
    room = most * float(wilson(0, found.n, resampling.level).high or 0.0)
    low, high = max(-most, found.value - room), min(most, found.value + room)
    return found.model_copy(update={"low": low, "high": high})


def share(statistic: Statistic, num_prompts: int, num_rows: int, resampling: Resampling = DEFAULT) -> Estimate:
    """Wilson's interval of a statistic in [0, 1], with an effective number of rows from its jackknife variance V.

        n_eff = T (1 - T) / V

    It does not collapse where all rows agree (n_eff is then the number of prompts), stays inside [0, 1], and takes
    Student's quantile for Wilson's normal one. n_eff is never taken to be above the number of rows.

    Args:
        statistic: (S, C) weights -> (S,) values in [0, 1].
        num_prompts: C.
        num_rows: N, what the statistic is made of.
        resampling: level; nothing is resampled.

    Source: Korn and Graubard (1998) for the effective n; Wilson (1927).
    """
    return shares(lambda weights: statistic(weights)[:, None], num_prompts, [num_rows], resampling)[0]


def shares(
    statistic: Statistic, num_prompts: int, num_rows: Sequence[int], resampling: Resampling = DEFAULT
) -> list[Estimate]:
    """As `share`, for K statistics: (S, C) weights -> (S, K) values."""
    values, influence = influences(statistic, num_prompts, resampling)
    units = len(influence)
    if units < 2:
        return [unknown(float(one), num_prompts, resampling) for one in values]
    variances = (influence**2).sum(axis=0) / (units * (units - 1))
    z = float(t.ppf((1 + resampling.level) / 2, units - 1))
    covers = measured_coverage("share", num_prompts, resampling.level)
    found = []
    for value, variance, rows in zip(values.tolist(), variances.tolist(), num_rows, strict=True):
        binomial = value * (1 - value)
        effective = min(binomial / variance, rows) if variance > 1e-12 and binomial > 0 else min(num_prompts, rows)
        low, high = _wilson_ends(value, effective, z)
        found.append(Estimate(value=value, low=low, high=high, level=resampling.level, n=num_prompts, coverage=covers))
    return found


def expanded_tail(level: float, num_prompts: int) -> float:
    """Share of resamples to leave out on each side of a percentile interval, so that few prompts do not make it too narrow.

        Phi(-sqrt(n / (n - 1)) t_{(1+level)/2, n-1})

    Source: Hesterberg (2015), What Teachers Should Know About the Bootstrap, section 5.3.

    Example:
        >>> round(expanded_tail(0.95, 10), 4), round(expanded_tail(0.95, 10_000), 4)
        (0.0086, 0.025)
    """
    n = max(num_prompts, 2)
    return float(norm.cdf(-math.sqrt(n / (n - 1)) * t.ppf((1 + level) / 2, n - 1)))


def divide(above: Floats, below: Floats) -> Floats:
    """Above / below, NaN where below is 0."""
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below != 0)


def wilson(successes: float, n: float, level: float = 0.95, quantile: float | None = None) -> Estimate:
    """Wilson's interval of a proportion of n independent units; does not collapse at 0 or 1.

    Args:
        successes: how many, in [0, n]; ties may count one half.
        n: >= 1; an effective number need not be whole.
        level: in (0, 1).
        quantile: instead of the normal one.

    Example:
        >>> print(wilson(10, 10))
        1.000 [0.722, 1.000]
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"successes must be in [0, n] and n >= 1, got {successes} of {n}")
    z = float(norm.ppf((1 + level) / 2)) if quantile is None else quantile
    low, high = _wilson_ends(successes / n, n, z)
    return Estimate(value=successes / n, low=low, high=high, level=level, n=int(n))


def _wilson_ends(value: float, n: float, z: float) -> tuple[float, float]:
    """Ends for a share of n units, n need not be whole; exactly 0 and 1 at the ends, which rounding would miss."""
    centre = (value + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(value * (1 - value) / n + z * z / (4 * n * n))
    return (0.0 if value == 0 else centre - half), (1.0 if value == 1 else centre + half)
