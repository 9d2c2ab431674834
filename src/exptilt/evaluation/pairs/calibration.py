"""Is sigmoid(margin) a probability."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from exptilt.evaluation.intervals import DEFAULT, Clusters, Floats, Resampling, bootstrap, finite
from exptilt.run_folder.evaluation_record import Bin, Calibration


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
            predicted=float(expected[at] / count[at]),
            observed=float(found[at] / count[at]),
            count=int(count[at]),
        )
        for at in range(num_bins)
        if count[at]
    )
    error = bootstrap(statistic, clusters.count, how)
    return Calibration(ece=error.value, error=error, bins=bins)
