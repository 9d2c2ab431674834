"""Best-of-n: the reward and the KL of taking the best of n samples of the reference, without sampling n each time.

best_of_n            chosen by the reward that counts, for a few n
best_of_n_curve      chosen by any reward and judged by the one that counts, for all n up to the size of the pool
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammaln, xlogy

from exptilt.evaluation.frontier.curve import average
from exptilt.evaluation.frontier.tilting import checked_rewards
from exptilt.evaluation.intervals import DEFAULT, Floats, Resampling, bootstrap, bootstraps, finite, mean
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
    logs = _checked_logs(log_probs, pool)
    return [_best_of(n, pool, logs, resampling) for n in ns]


def _best_of(n: int, pool: Floats, logs: Floats | None, resampling: Resampling) -> BestOfN:
    weights = order_weights(pool.shape[1], n)
    rewards = ranked_by(pool, pool) @ weights
    kls = _kls(n, pool, logs, weights)
    reward = bootstrap(lambda drawn: average(drawn, rewards), len(rewards), resampling)
    return BestOfN(n=n, reward=reward, rewards=rewards, kls=kls, bound=kl_bound(n))


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class BestOfNCurve(Panel):
    """Best-of-n for n = 1, ..., N, chosen by one reward and judged by the true one; every column has N entries."""

    kl: Floats
    """(N,) KL(best-of-n || reference), nats, averaged over prompts: the plug-in estimate, or the bound."""
    bound: Floats
    """(N,) log n - (n - 1) / n."""
    chosen_by: Floats
    """(N,) mean of the reward that chooses; it never falls."""
    gold: tuple[Estimate, ...]
    """(N,) mean true reward of what was chosen; it falls where the reward that chooses is over-optimised."""
    best_n: int
    """The n with the highest true reward."""
    fall: Estimate | None
    """True reward at N less that at the best n, where the best n of each half of the prompts is the other half's, so that
    it was not picked on the prompts it is measured on. None with fewer than 2 prompts. Below 0: it fell."""


def best_of_n_curve(
    chosen_by: ArrayLike, gold: ArrayLike, log_probs: ArrayLike | None = None, resampling: Resampling = DEFAULT
) -> BestOfNCurve:
    """Best-of-n for all n up to N from one pool of N samples on each prompt, chosen by one reward, judged by another.

        E[gold of the best of n] = sum_i C(i-1, n-1) / C(N, n) gold_(i)        chosen_by_(1) <= ... <= chosen_by_(N)

    Unbiased for every n <= N: the mean over all subsets of n samples. Samples of equal `chosen_by` are equally likely to
    be taken, so each counts with the mean of its equals.

    Args:
        chosen_by: (X, N) the reward that picks, learned or true.
        gold: (X, N) the true reward of the same samples; `chosen_by` itself shows what cannot be over-optimised.
        log_probs: (X, N) log pi_ref(y|x) of the samples, for `plug_in_kl`; without them `kl` is the bound.
        resampling: bootstrap over prompts.

    Source: Gao, Schulman and Hilton (2023), https://arxiv.org/abs/2210.10760, draw such curves for learned rewards.

    Example:
        >>> curve = best_of_n_curve(chosen_by=[[1.0, 2.0, 3.0]], gold=[[0.0, 1.0, -1.0]])
        >>> [round(point.value, 4) for point in curve.gold], curve.best_n  # 0, -1/3, -1
        ([0.0, -0.3333, -1.0], 1)
    """
    picks = checked_rewards(chosen_by, least=1)
    golds = finite(gold, "gold")
    if golds.shape != picks.shape:
        raise ValueError(f"gold must have the shape of chosen_by {picks.shape}, got {golds.shape}")
    logs = _checked_logs(log_probs, picks)
    ns = np.arange(1, picks.shape[1] + 1)
    weights = np.stack([order_weights(len(ns), int(n)) for n in ns])
    judged = ranked_by(picks, golds) @ weights.T  # (X, N)
    return BestOfNCurve(
        kl=np.array([_kls(int(n), picks, logs, own).mean() for n, own in zip(ns, weights, strict=True)]),
        bound=np.array([kl_bound(int(n)) for n in ns]),
        chosen_by=(ranked_by(picks, picks) @ weights.T).mean(axis=0),
        gold=tuple(bootstraps(lambda drawn: average(drawn, judged), len(judged), resampling)),
        best_n=int(ns[np.argmax(judged.mean(axis=0))]),
        fall=_fall(judged, resampling),
    )


def _fall(judged: Floats, resampling: Resampling) -> Estimate | None:
    """The last column less the best one, which is picked on the other half of the prompts."""
    if len(judged) < 2:
        return None
    change = np.empty(len(judged))
    for half in (slice(0, None, 2), slice(1, None, 2)):
        others = np.delete(judged, np.arange(len(judged))[half], axis=0)
        change[half] = judged[half, -1] - judged[half, int(np.argmax(others.mean(axis=0)))]
    return mean(change, np.arange(len(change)), resampling)


def ranked_by(chosen_by: Floats, values: Floats) -> Floats:
    """(X, N) values in the rising order of `chosen_by`; where that is equal, the mean of the equals stands for each.

    Example:
        >>> ranked_by(np.array([[2.0, 1.0, 2.0]]), np.array([[5.0, 0.0, 7.0]])).tolist()
        [[0.0, 6.0, 6.0]]
    """
    order = np.argsort(chosen_by, axis=1, kind="stable")
    picked, ranked = np.take_along_axis(chosen_by, order, axis=1), np.take_along_axis(values, order, axis=1)
    begins = np.concatenate([np.ones((len(picked), 1), dtype=bool), picked[:, 1:] != picked[:, :-1]], axis=1)
    block = begins.ravel().cumsum() - 1
    means = np.bincount(block, weights=ranked.ravel()) / np.bincount(block)
    return np.asarray(means[block].reshape(ranked.shape))


def _kls(n: int, chosen_by: Floats, logs: Floats | None, weights: Floats) -> Floats:
    """(X,) KL of best-of-n on each prompt."""
    if logs is None:
        return np.full(len(chosen_by), kl_bound(n))
    return np.asarray(ranked_by(chosen_by, plug_in_kl(logs, n)) @ weights)


def _checked_logs(log_probs: ArrayLike | None, pool: Floats) -> Floats | None:
    if log_probs is None:
        return None
    logs = finite(log_probs, "log_probs")
    if logs.shape != pool.shape or (logs > 0).any():
        raise ValueError(f"log_probs must have the shape of rewards {pool.shape} and be <= 0, got {logs.shape}")
    return logs


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
    the same completion. Where different completions have equal rewards the KL is smaller than this says.

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
