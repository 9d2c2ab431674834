"""Is a confidence a probability: reliability, and a calibration error that knows its own bias."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from exptilt.evaluation.intervals import DEFAULT, Clusters, Floats, Resampling, finite, unknown
from exptilt.evaluation.measured_coverage import measured_coverage
from exptilt.run_folder.estimate_record import Estimate
from exptilt.run_folder.evaluation_record import Bin, Calibration

_STEPS = np.concatenate([np.linspace(0, 0.2, 21), np.linspace(0.225, 0.5, 12), np.linspace(0.55, 1, 10)])
"""True errors at which the error that would be seen is simulated."""
_CHUNK = 2_000_000
_MOST = 20_000_000
"""Outcomes simulated at once, and in all for each true error; never fewer than 200 times all rows."""


def calibration(
    margin: ArrayLike, clusters: Clusters, *, num_bins: int = 10, resampling: Resampling = DEFAULT
) -> Calibration:
    """Compare sigmoid(|margin|), a confidence in [0.5, 1], with how often the margin's side was the preferred one.

    Args:
        margin: (N,) reward of chosen less reward of rejected, nats, beta included.
        clusters: prompts of the pairs.
        num_bins: of equal width, >= 1.
        resampling: level, number of simulations, seed.
    """
    rows = finite(margin, "margin")
    confidence, right = expit(np.abs(rows)), (np.sign(rows) + 1) / 2
    return calibration_error(confidence, right, clusters, np.linspace(0.5, 1, num_bins + 1), resampling)


def calibration_error(
    confidence: ArrayLike, right: ArrayLike, clusters: Clusters, edges: ArrayLike, resampling: Resampling = DEFAULT
) -> Calibration:
    """Reliability by bin and the expected calibration error, debiased and with an interval.

        ECE = sum_b n_b / N |observed_b - predicted_b|

    is above 0 by chance alone: 64 pairs of a perfectly calibrated model show about 0.13. So the error that would be seen
    is simulated for a model whose true error is e in every bin, for many e. The estimate is the e whose median is the
    ECE seen, the interval holds the e under which the ECE seen is not unusual, and the null band is what e = 0 shows.
    Rows of one prompt are taken to be right or wrong together, which errs wide where a prompt has several.

    Args:
        confidence: (N,) probabilities.
        right: (N,) 1 where what was predicted came true, 0 where not, one half for a tie.
        clusters: prompts of the rows.
        edges: (B + 1,) of the bins; the last one holds its right end.
        resampling: level, number of simulations, seed.

    Example:
        >>> found = calibration_error([0.75] * 40, [1.0] * 30 + [0.0] * 10, Clusters(range(40)), [0.5, 1.0])
        >>> found.error.value, found.error.low, found.error.high < 0.2
        (0.0, 0.0, True)
    """
    table = _Table.of(finite(confidence, "confidence"), finite(right, "right"), clusters, finite(edges, "edges"))
    seen = table.seen
    if clusters.count < 2:
        return Calibration(ece=seen, error=unknown(seen, clusters.count, resampling), bins=table.bins)
    tail = (1 - resampling.level) / 2
    far = seen + 5 / np.sqrt(clusters.count)  # no larger error would show what is seen
    simulated = [table.simulate(step, resampling) for step in _STEPS[: int(np.searchsorted(_STEPS, far)) + 2]]
    truths = np.array([truth for truth, _ in simulated])
    quantiles = np.array([np.quantile(shown, [tail, 0.5, 1 - tail]) for _, shown in simulated])
    # The quantiles rise with the true error. Where one is level, the least error counts, for the high end the largest.
    rising = np.maximum.accumulate(quantiles, axis=0) + 1e-12 * np.arange(len(truths))[:, None] * np.array([0, 1, 1])
    high, value, low = (float(np.interp(seen, column, truths)) for column in rising.T)
    return Calibration(
        ece=seen,
        error=Estimate(
            value=value,
            low=min(low, value),
            high=max(high, value),
            level=resampling.level,
            n=clusters.count,
            coverage=measured_coverage("calibration", clusters.count, resampling.level),
        ),
        null_band=(float(quantiles[0, 0]), float(quantiles[0, 2])),
        bins=table.bins,
    )


@dataclass(frozen=True, eq=False)
class _Table:
    """Rows sorted into bins."""

    confidence: Floats
    right: Floats
    which: NDArray[np.int64]
    edges: Floats
    clusters: Clusters

    @classmethod
    def of(cls, confidence: Floats, right: Floats, clusters: Clusters, edges: Floats) -> _Table:
        if not len(confidence) == len(right) == len(clusters):
            raise ValueError(f"{len(confidence)} confidences, {len(right)} outcomes and {len(clusters)} prompts differ")
        which = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, len(edges) - 2)
        return cls(confidence, right, which, edges, clusters)

    @property
    def gaps(self) -> Floats:
        """(B,) observed less predicted, summed over the rows of each bin."""
        return np.bincount(self.which, self.right - self.confidence, minlength=len(self.edges) - 1).astype(np.float64)

    @property
    def seen(self) -> float:
        return float(np.abs(self.gaps).sum() / len(self.which))

    @property
    def bins(self) -> tuple[Bin, ...]:
        size = len(self.edges) - 1
        count = np.bincount(self.which, minlength=size)
        predicted = np.bincount(self.which, self.confidence, minlength=size)
        observed = np.bincount(self.which, self.right, minlength=size)
        return tuple(
            Bin(
                low=float(self.edges[at]),
                high=float(self.edges[at + 1]),
                predicted=float(predicted[at] / count[at]),
                observed=float(observed[at] / count[at]),
                count=int(count[at]),
            )
            for at in range(size)
            if count[at]
        )

    def simulate(self, error: float, resampling: Resampling) -> tuple[float, Floats]:
        """The true error of a model that is off by `error` in every bin as far as probabilities go, and (S,) ECEs seen."""
        side = np.where(self.gaps > 0, 1.0, -1.0)[self.which]
        side = np.where((self.confidence + side * error > 1) | (self.confidence + side * error < 0), -side, side)
        chance = np.clip(self.confidence + side * error, 0, 1)
        member = np.eye(len(self.edges) - 1)[self.which]
        truth = float(np.abs(member.T @ (chance - self.confidence)).sum() / len(chance))
        rng, found = np.random.default_rng(resampling.seed), []
        rows, draws = max(1, _CHUNK // len(chance)), max(200, min(resampling.num_resamples, _MOST // len(chance)))
        for start in range(0, draws, rows):
            luck = rng.random((min(rows, draws - start), self.clusters.count))
            right = luck[:, self.clusters.index] < chance
            found.append(np.abs((right - self.confidence) @ member).sum(axis=1) / len(chance))
        return truth, np.concatenate(found)
