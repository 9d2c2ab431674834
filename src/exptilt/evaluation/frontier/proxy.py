"""What optimising a proxy reward would do to the true one, predicted from samples of the reference without training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from exptilt.evaluation.frontier.curve import TiltedSamples
from exptilt.evaluation.frontier.tilting import beta_grid, checked_rewards, tilt
from exptilt.evaluation.intervals import DEFAULT, Floats, Resampling, finite, mean
from exptilt.evaluation.result import Panel
from exptilt.run_folder.estimate_record import Estimate


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ProxyCurve(Panel):
    """The optimum of the proxy at each of B betas, judged by both rewards; stops where the samples stop."""

    betas: Floats
    kl: Floats
    """(B,) KL(optimum of the proxy || reference), nats, rising."""
    proxy: Floats
    """(B,) mean proxy reward."""
    gold: tuple[Estimate, ...]
    """(B,) mean true reward: it turns down where the proxy is over-optimised."""
    best_kl: float
    """KL at which the true reward is highest."""
    solid_kl: float
    """Up to this KL the estimates are trustworthy."""


def proxy_curve(
    proxy: ArrayLike, gold: ArrayLike, num_points: int = 24, *, resampling: Resampling = DEFAULT
) -> ProxyCurve:
    """Tilt samples of the reference by the proxy reward, and average the true one.

    Args:
        proxy: (X, M) rewards of a reward model (or another proxy) on M samples of the reference for each prompt.
        gold: (X, M) true rewards of the same samples.
        num_points: betas between the reference and the end of what the samples show, >= 2.
        resampling: bootstrap over prompts.

    Source: Gao, Schulman and Hilton (2023) measure this curve by training; here it is importance sampling.

    Example:
        >>> rewards = np.random.default_rng(0).normal(size=(50, 64))
        >>> same = proxy_curve(rewards, rewards)
        >>> bool(np.allclose([point.value for point in same.gold], same.proxy)), same.best_kl == float(same.kl[-1])
        (True, True)
    """
    proxies = checked_rewards(proxy)
    golds = finite(gold, "gold")
    if golds.shape != proxies.shape:
        raise ValueError(f"gold must have the shape of proxy {proxies.shape}, got {golds.shape}")
    if num_points < 2:
        raise ValueError(f"num_points must be >= 2, got {num_points}")
    base = np.full_like(proxies, -np.log(proxies.shape[1]))
    grid = beta_grid(proxies, base)
    samples = TiltedSamples(rewards=proxies, log_base=base, betas=grid, exact=False)
    shown = grid[samples.tilts.kl.mean(axis=0) <= samples.limit_kl]
    betas = np.geomspace(shown[0], shown[-1], num_points)
    under_proxy, under_gold = tilt(proxies, betas), tilt(proxies, betas, values=golds)
    points = tuple(mean(column, np.arange(len(proxies)), resampling) for column in under_gold.value.T)
    kl = under_proxy.kl.mean(axis=0)
    return ProxyCurve(
        betas=betas,
        kl=kl,
        proxy=under_proxy.value.mean(axis=0),
        gold=points,
        best_kl=float(kl[int(np.argmax(under_gold.value.mean(axis=0)))]),
        solid_kl=samples.solid_kl,
    )
