"""Best-of-n: the reward and the KL of taking the best of n samples of the reference, without sampling n each time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammaln, xlogy

from exptilt.evaluation.frontier.curve import average
from exptilt.evaluation.frontier.tilting import checked_rewards
from exptilt.evaluation.intervals import DEFAULT, Floats, Resampling, bootstrap, finite
from exptilt.evaluation.result import Panel
from exptilt.run_folder.estimate_record import Estimate


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class BestOfN(Panel):
    """Best-of-n on X prompts."""

    n: int
    reward: Estimate
    """E[best of n], unbiased."""
    rewards: Floats
    """(X,) the same on each prompt; with `kls` it is a policy for `OptimalFrontier.fraction`."""
    kls: Floats
    """(X,) KL(best-of-n || reference), nats: the plug-in estimate, or the bound without log-probabilities."""
    bound: float
    """log n - (n - 1) / n, which the KL never exceeds."""


def best_of_n(
    rewards: ArrayLike, ns: list[int], log_probs: ArrayLike | None = None, resampling: Resampling = DEFAULT
) -> list[BestOfN]:
    """Best-of-n for several n from one pool of N samples on each prompt.

        E[best of n] = sum_i C(i-1, n-1) / C(N, n) r_(i)        r_(1) <= ... <= r_(N)

    the mean over all subsets of n samples of the pool: unbiased for every n <= N.

    Args:
        rewards: (X, N) of samples of the reference.
        ns: the n wanted, each in [1, N].
        log_probs: (X, N) log pi_ref(y|x) of the samples, for `plug_in_kl`; without them `kls` is the bound.
        resampling: bootstrap over prompts.

    Example:
        >>> [found] = best_of_n([[1.0, 2.0, 3.0], [0.0, 0.0, 3.0]], ns=[2])
        >>> found.rewards.round(4).tolist(), round(found.bound, 4)
        ([2.6667, 2.0], 0.1931)
    """
    pool = checked_rewards(rewards, least=1)
    order = np.argsort(pool, axis=1, kind="stable")
    ranked = np.take_along_axis(pool, order, axis=1)
    logs = None
    if log_probs is not None:
        logs = finite(log_probs, "log_probs")
        if logs.shape != pool.shape or (logs > 0).any():
            raise ValueError(f"log_probs must have the shape of rewards {pool.shape} and be <= 0, got {logs.shape}")
        logs = np.take_along_axis(logs, order, axis=1)
    return [_best_of(n, ranked, logs, resampling) for n in ns]


def _best_of(n: int, ranked: Floats, logs: Floats | None, resampling: Resampling) -> BestOfN:
    weights = order_weights(ranked.shape[1], n)
    rewards, bound = ranked @ weights, kl_bound(n)
    kls = np.full(len(ranked), bound) if logs is None else plug_in_kl(logs, n) @ weights
    reward = bootstrap(lambda drawn: average(drawn, rewards), len(rewards), resampling)
    return BestOfN(n=n, reward=reward, rewards=rewards, kls=kls, bound=bound)


def order_weights(pool: int, n: int) -> Floats:
    """(N,) probability that the i-th smallest of N samples is the best of n of them: C(i-1, n-1) / C(N, n).

    Any quantity of the selected sample averaged with these weights (a reward, a win) is unbiased for best-of-n.

    Example:
        >>> order_weights(4, 2).round(4).tolist()
        [0.0, 0.1667, 0.3333, 0.5]
    """
    if not 1 <= n <= pool:
        raise ValueError(f"n must be in [1, {pool}], the number of samples in the pool, got {n}")
    rank = np.arange(1, pool + 1)
    kept = rank >= n
    chosen = np.where(kept, rank - n, 0)
    log_weights = gammaln(rank) - gammaln(chosen + 1) - gammaln(n)
    log_weights -= gammaln(pool + 1) - gammaln(n + 1) - gammaln(pool - n + 1)
    weights = np.where(kept, np.exp(log_weights), 0.0)
    return np.asarray(weights / weights.sum())


def kl_bound(n: int) -> float:
    """Log n - (n - 1) / n, the most KL(best-of-n || reference) can be; reached where no completion repeats.

    Source: Beirami et al. (2024), https://arxiv.org/abs/2401.01879.

    Example:
        >>> round(kl_bound(2), 4), round(kl_bound(64), 3)
        (0.1931, 3.175)
    """
    if n < 1:
        raise ValueError(f"n must be >= 1, got {n}")
    return math.log(n) - (n - 1) / n


def plug_in_kl(log_probs: ArrayLike, n: int) -> Floats:
    """KL(best-of-n || reference) as seen from the selected sample, nats; average it over selected samples.

        (1-e)^n [log n + (n-1) log(1-e) - (n-1)/n] + (1 - (1-e)^n) log((1 - (1-e)^n) / e)        e = pi_ref(y|x)

    Close to the bound where e is small, far below it where the reference is peaked and the best of n is often one and
    the same completion.

    Args:
        log_probs: log e of the selected samples, nats, <= 0.
        n: >= 1.

    Source: Beirami et al. (2024), their proposed estimator.
    """
    log_share = np.asarray(log_probs, dtype=np.float64)
    share = np.exp(log_share)
    # log(1-e), and the e -> 1 limit in which best-of-n is the reference.
    with np.errstate(divide="ignore"):
        log_rest = np.log1p(-share)
    missed = np.exp(n * log_rest)
    hit = -np.expm1(n * log_rest)
    among_rest = missed * (math.log(n) - (n - 1) / n) + (n - 1) * missed * np.where(missed > 0, log_rest, 0)
    return np.asarray(among_rest + xlogy(hit, hit) - hit * log_share)


def best_of_n_law(probabilities: ArrayLike, rewards: ArrayLike, n: int) -> Floats:
    """(Y,) exact probabilities of best-of-n from probabilities (Y,) and rewards (Y,) of all completions.

        pi_n(y) = F(y)^n - F^-(y)^n

    with F the reference's cumulative distribution in the order of the rewards; completions of equal reward share
    their probability as in the reference.

    Example:
        >>> best_of_n_law([0.5, 0.5], [0.0, 1.0], n=2).tolist()
        [0.25, 0.75]
    """
    law, values = finite(probabilities, "probabilities"), finite(rewards, "rewards")
    sums_to_one = math.isclose(law.sum(), 1, abs_tol=1e-9)
    if law.shape != values.shape or law.ndim != 1 or (law < 0).any() or not sums_to_one:
        raise ValueError(f"need (Y,) probabilities that sum to 1 and (Y,) rewards, got {law.shape} and {values.shape}")
    kl_bound(n)
    _, level = np.unique(values, return_inverse=True)
    mass = np.bincount(level, weights=law)
    upto = np.minimum(np.cumsum(mass), 1.0)
    gained = np.diff(upto**n, prepend=0.0)
    return np.asarray(np.divide(gained, mass, out=np.zeros_like(mass), where=mass > 0)[level] * law)


def exact_kl(probabilities: ArrayLike, rewards: ArrayLike, n: int) -> float:
    """KL(best-of-n || reference) in nats of an exactly known reference.

    Example:
        >>> round(exact_kl([0.6, 0.3, 0.1], [0.0, 1.0, 2.0], n=2), 3)
        0.121
    """
    law, best = np.asarray(probabilities, dtype=np.float64), best_of_n_law(probabilities, rewards, n)
    return float((xlogy(best, best) - xlogy(best, law)).sum())
