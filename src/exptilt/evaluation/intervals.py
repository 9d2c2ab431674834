"""Intervals. The unit is the prompt: samples and pairs of one prompt are not independent of each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

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


@config
class Resampling:
    """How intervals are made: a percentile bootstrap over prompts."""

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


def bootstrap(statistic: Statistic, num_prompts: int, how: Resampling = DEFAULT) -> Estimate:
    """Interval of any statistic that can be written with prompt weights, by the percentile bootstrap over prompts.

    With one prompt, or where the statistic is undefined (NaN) in more than 5 % of the resamples, nothing is known and
    the interval has no ends (None). Percentile intervals are a little narrow below some 30 prompts.

    Args:
        statistic: (S, C) weights -> (S,) values; see `Statistic`.
        num_prompts: C.
        how: level, number of resamples, seed.

    Example:
        >>> heights = np.array([1.0, 2.0, 3.0, 4.0])
        >>> found = bootstrap(lambda weights: weights @ heights / weights.sum(axis=1), 4)
        >>> found.value, found.low < 2.5 < found.high
        (2.5, True)
    """
    value = float(statistic(np.ones((1, num_prompts)))[0])
    if num_prompts < 2:
        return Estimate(value=value, low=None, high=None, level=how.level, n=num_prompts)
    drawn = np.concatenate([statistic(weights) for weights in resampled_weights(num_prompts, how)])
    known = drawn[np.isfinite(drawn)]
    if len(known) < (1 - _TOLERATED) * len(drawn):
        return Estimate(value=value, low=None, high=None, level=how.level, n=num_prompts)
    low, high = np.quantile(known, [(1 - how.level) / 2, (1 + how.level) / 2])
    return Estimate(value=value, low=float(low), high=float(high), level=how.level, n=num_prompts)


def resampled_weights(num_prompts: int, how: Resampling = DEFAULT) -> Iterator[Floats]:
    """(S, C) counts of each prompt in resamples with replacement, in chunks; `num_resamples` rows in all."""
    rng = np.random.default_rng(how.seed)
    rows = max(1, _CHUNK // num_prompts)
    for start in range(0, how.num_resamples, rows):
        size = min(rows, how.num_resamples - start)
        drawn = rng.integers(num_prompts, size=(size, num_prompts)) + np.arange(size)[:, None] * num_prompts
        yield np.bincount(drawn.ravel(), minlength=size * num_prompts).reshape(size, num_prompts).astype(np.float64)


def ratio(numerator: ArrayLike, denominator: ArrayLike, prompts: Prompts, how: Resampling = DEFAULT) -> Estimate:
    """Sum over sum with an interval clustered by prompt; all three have one entry for each row."""
    clusters = Clusters(prompts)
    above, below = clusters.sums(numerator), clusters.sums(denominator)
    return bootstrap(lambda weights: divide(weights @ above, weights @ below), clusters.count, how)


def mean(values: ArrayLike, prompts: Prompts, how: Resampling = DEFAULT) -> Estimate:
    """Mean of row values with an interval clustered by prompt.

    Example:
        >>> print(mean([1.0, 1.0, 0.0, 0.0], prompts=["a", "a", "b", "b"]))
        0.500 [0.000, 1.000]
    """
    return ratio(values, np.ones(len(np.asarray(values))), prompts, how)


def paired_difference(first: ArrayLike, second: ArrayLike, prompts: Prompts, how: Resampling = DEFAULT) -> Estimate:
    """Mean of first - second, row by row on the same prompts; narrower than the difference of two separate means."""
    return mean(finite(first, "first") - finite(second, "second"), prompts, how)


def divide(above: Floats, below: Floats) -> Floats:
    """Above / below, NaN where below is 0."""
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below != 0)


def wilson(successes: float, n: int, level: float = 0.95) -> Estimate:
    """Wilson's interval of a proportion of n independent units; does not collapse at 0 or 1.

    Args:
        successes: how many, in [0, n]; ties may count one half.
        n: >= 1.
        level: in (0, 1).

    Example:
        >>> print(wilson(10, 10))
        1.000 [0.722, 1.000]
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"successes must be in [0, n] and n >= 1, got {successes} of {n}")
    share, z = successes / n, float(norm.ppf((1 + level) / 2))
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # Exactly 0 and 1 at the ends, which rounding would miss.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return Estimate(value=share, low=low, high=high, level=level, n=n)


def minimum_detectable_difference(
    num_prompts: int, sd: float = 0.5, correlation: float = 0.0, power: float = 0.8, level: float = 0.95
) -> float:
    """The smallest true difference of two methods on the same prompts that an evaluation would find with this power.

        (z_{(1+level)/2} + z_power) * sd * sqrt(2 (1 - correlation) / num_prompts)

    Args:
        num_prompts: >= 1.
        sd: standard deviation of one prompt's value; 0.5 is the most a proportion can have.
        correlation: of the two methods over prompts, in [-1, 1); 0 if they are measured on different prompts.
        power: probability of finding the difference, in (0, 1).
        level: of the two-sided interval that must exclude 0, in (0, 1).

    Example:
        >>> round(minimum_detectable_difference(287, correlation=0.27), 3)
        0.1
    """
    if num_prompts < 1:
        raise ValueError(f"num_prompts must be >= 1, got {num_prompts}")
    return _detectable(sd, correlation, power, level) / math.sqrt(num_prompts)


def prompts_needed(
    difference: float, sd: float = 0.5, correlation: float = 0.0, power: float = 0.8, level: float = 0.95
) -> int:
    """How many prompts find a true `difference` with this power; the inverse of `minimum_detectable_difference`.

    Example:
        >>> prompts_needed(0.1, correlation=0.27)
        287
    """
    if not difference > 0:
        raise ValueError(f"difference must be > 0, got {difference}")
    return math.ceil((_detectable(sd, correlation, power, level) / difference) ** 2)


def _detectable(sd: float, correlation: float, power: float, level: float) -> float:
    if not (sd > 0 and -1 <= correlation < 1 and 0 < power < 1 and 0 < level < 1):
        raise ValueError(
            f"need sd > 0, correlation in [-1, 1), power and level in (0, 1), got {sd}, {correlation}, {power}, {level}"
        )
    quantiles = float(norm.ppf((1 + level) / 2) + norm.ppf(power))
    return quantiles * sd * math.sqrt(2 * (1 - correlation))
