"""What another reward would do to the true one, as records of frontier.json: its optimum, and best-of-n chosen by it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from exptilt.errors import DataError
from exptilt.evaluation.frontier.best_of_n import best_of_n_curve
from exptilt.evaluation.frontier.proxy import proxy_curve
from exptilt.run_folder.estimate_record import Estimate
from exptilt.run_folder.frontier_record import BestOfNByReward, Proxy


def proxy_record(name: str, values: NDArray[np.float64], gold: NDArray[np.float64]) -> Proxy:
    """The course of the true reward if this proxy were optimised.

    Args:
        name: what tables call the proxy.
        values: (X, M) proxy rewards of the reference's samples.
        gold: (X, M) their true rewards.

    Raises:
        DataError: the proxy says the same of all samples.
    """
    try:
        curve = proxy_curve(values, gold)
    except ValueError as error:
        raise DataError(f"proxy {name!r}: {error}") from None
    golds, low, high = band(curve.gold)
    return Proxy(
        name=name,
        kl=tuple(curve.kl.tolist()),
        proxy=tuple(curve.proxy.tolist()),
        gold=golds,
        low=low,
        high=high,
        solid_kl=float(curve.solid_kl),
        best_kl=curve.best_kl,
        best=curve.gold[int(np.argmax(golds))],
        end=curve.gold[-1],
    )


def best_of_n_record(
    name: str, values: NDArray[np.float64], gold: NDArray[np.float64], log_probs: NDArray[np.float64]
) -> BestOfNByReward:
    """The best of n samples of the pool by a reward, for all n.

    Args:
        name: what tables call the reward that chooses.
        values: (X, M) rewards that choose; the true ones themselves are recognised.
        gold: (X, M) true rewards.
        log_probs: (X, M) log pi_ref(y|x), nats.
    """
    curve = best_of_n_curve(values, gold, log_probs)
    golds, low, high = band(curve.gold)
    return BestOfNByReward(
        name=name,
        is_true=values is gold,
        kl=tuple(curve.kl.tolist()),
        kl_is="plug-in estimate",
        kl_bound=tuple(curve.bound.tolist()),
        chosen_by=tuple(curve.chosen_by.tolist()),
        chosen_by_sd=float(values.std(axis=1).mean()),
        gold=golds,
        low=low,
        high=high,
        best_n=curve.best_n,
        best=curve.gold[curve.best_n - 1],
        end=curve.gold[-1],
        fall=curve.fall,
    )


def band(
    points: Sequence[Estimate],
) -> tuple[tuple[float, ...], tuple[float, ...] | None, tuple[float, ...] | None]:
    """Values of estimates, and both ends of their intervals where all of them have one."""
    values = tuple(float(np.nan if point.value is None else point.value) for point in points)
    ends = [point.interval for point in points if point.interval is not None]
    if len(ends) < len(points):
        return values, None, None
    return values, tuple(low for low, _ in ends), tuple(high for _, high in ends)
