"""Is sigmoid(margin) a probability."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from exptilt.evaluation.intervals import DEFAULT, Clusters, Estimate, Floats, Resampling, bootstrap, finite
from exptilt.evaluation.result import Panel


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin(Panel):
    """Pairs whose confidence lies in [low, high)."""

    low: float
    high: float
    confidence: float
    """Mean of sigmoid(|margin|)."""
    accuracy: float
    num_pairs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration(Panel):
    """Whether sigmoid(margin) is the probability that the preferred completion is the one with the higher reward."""

    error: Estimate
    """Expected calibration error: |accuracy - confidence| averaged over pairs by bin. Never below 0, so biased up."""
    bins: tuple[Bin, ...]
    """Bins that hold a pair."""


def calibration(margin: ArrayLike, clusters: Clusters, *, num_bins: int = 10, how: Resampling = DEFAULT) -> Calibration:
    """Compare sigmoid(|margin|), a confidence in [0.5, 1], with how often the margin's side was the preferred one.

    Args:
        margin: (N,) reward of chosen less reward of rejected, nats, beta included.
        clusters: prompts of the pairs.
        num_bins: of equal width, >= 1.
        how: bootstrap over prompts.
    """
    rows = finite(margin, "margin")
    confidence, right = expit(np.abs(rows)), (np.sign(rows) + 1) / 2
    edges = np.linspace(0.5, 1, num_bins + 1)
    which = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, num_bins - 1)
    member = np.eye(num_bins)[which]
    sums = clusters.sums(np.stack([member * confidence[:, None], member * right[:, None], member], axis=1))

    def statistic(weights: Floats) -> Floats:
        expected, found, count = np.moveaxis(np.tensordot(weights, sums, axes=1), 1, 0)
        return np.asarray(np.abs(expected - found).sum(axis=1) / count.sum(axis=1))

    expected, found, count = sums.sum(axis=0)
    bins = tuple(
        Bin(
            low=float(edges[at]),
            high=float(edges[at + 1]),
            confidence=float(expected[at] / count[at]),
            accuracy=float(found[at] / count[at]),
            num_pairs=int(count[at]),
        )
        for at in range(num_bins)
        if count[at]
    )
    return Calibration(error=bootstrap(statistic, clusters.count, how), bins=bins)
