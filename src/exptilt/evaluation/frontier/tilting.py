"""The exponential tilt pi_ref exp(r / beta) / Z on weighted samples of the reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import expit, logit, logsumexp, rel_entr

from exptilt.evaluation.intervals import Floats, finite

_DOUBLINGS = 40
"""Times the weakest tilt of the grid is doubled at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Tilt:
    """The optimum on each of X prompts at each of B betas; arrays (X, B), nats."""

    value: Floats
    """Expected value under the tilt; the reward itself unless another value was asked for."""
    kl: Floats
    """KL(tilt || reference)."""
    log_partition: Floats
    """log Z = log E_ref exp(r / beta)."""
    ess: Floats
    """Effective number of samples, 1 / sum w^2."""
    concentration: Floats
    """log M - H(w), how far the weights are from uniform; the KL itself if all samples are the reference's."""


def tilt(rewards: Floats, betas: Floats, log_base: Floats | None = None, values: Floats | None = None) -> Tilt:
    """Tilt samples by their rewards, self-normalised on each prompt.

    With base weights q (1/M for samples of the reference) and w = q exp(r/beta) / sum q exp(r/beta):

        value = sum w v        log Z = log sum q exp(r/beta)        kl = sum w r / beta - log Z

    Args:
        rewards: (X, M) finite.
        betas: (B,) > 0.
        log_base: (X, M) log q, sums to one on each prompt; None is uniform.
        values: (X, M) what to average under the tilt; None is the rewards.

    Example:
        >>> binary = tilt(np.array([[0.0, 1.0]]), np.array([1.0]))
        >>> round(float(binary.value[0, 0]), 6), round(float(binary.log_partition[0, 0]), 6)
        (0.731059, 0.620115)
    """
    num = rewards.shape[1]
    base = np.full_like(rewards, -math.log(num)) if log_base is None else log_base
    columns = [_tilt_at(rewards, float(beta), base, rewards if values is None else values) for beta in betas]
    return Tilt(*(np.stack(column, axis=1) for column in zip(*columns, strict=True)))


def _tilt_at(rewards: Floats, beta: float, base: Floats, values: Floats) -> tuple[Floats, ...]:
    log_weights = base + rewards / beta
    highest = log_weights.max(axis=1, keepdims=True)
    weights = np.exp(log_weights - highest)
    total = weights.sum(axis=1, keepdims=True)
    weights /= total
    log_partition = (highest + np.log(total))[:, 0]
    kl = (weights * rewards).sum(axis=1) / beta - log_partition
    log_num = math.log(rewards.shape[1])
    concentration = log_num + rel_entr(weights, 1.0).sum(axis=1)
    # Rounding of two large numbers' difference may fall below zero where the tilt is weak.
    return (weights * values).sum(axis=1), np.maximum(kl, 0), log_partition, 1 / (weights**2).sum(axis=1), concentration


def checked_rewards(rewards: ArrayLike, least: int = 4) -> Floats:
    """(X, M) rewards as float64, or the reason why they cannot make a frontier.

    Raises:
        ValueError: not a rectangle, no prompts, fewer than `least` samples each, or a reward that is not finite.
    """
    try:
        array = finite(rewards, "rewards (prompt, sample)")
    except ValueError as error:
        if "inhomogeneous" in str(error):
            raise ValueError(
                "rewards must be a rectangle (X, M): each prompt needs the same number of samples, none has none"
            ) from None
        raise
    if array.ndim != 2 or array.shape[0] == 0:
        raise ValueError(f"rewards must have shape (X, M), X prompts with M samples each, got {array.shape}")
    if array.shape[1] < least:
        raise ValueError(
            f"{array.shape[1]} samples for each prompt are too few, since M samples cannot show a KL above log M: "
            f"draw at least {least}, and 64 or more for a useful range"
        )
    return array


def mixture_log_base(log_reference: ArrayLike, log_policies: ArrayLike, counts: Sequence[int]) -> Floats:
    """(X, M) log base weights that turn samples pooled from the reference and trained policies back into the reference.

        q proportional to pi_ref(y) / (alpha_0 pi_ref(y) + sum_k alpha_k pi_k(y)),   alpha = counts / M

    Normalised on each prompt, which needs the reference's bulk covered: its own samples are required, a half is good.

    Args:
        log_reference: (X, M) log pi_ref of every pooled sample, nats.
        log_policies: (P, X, M) log-probability of every pooled sample under each of P policies, nats.
        counts: (1 + P,) samples for each prompt from the reference, then from each policy; they sum to M.
    """
    reference, policies = finite(log_reference, "log_reference"), finite(log_policies, "log_policies")
    numbers = np.asarray(counts, dtype=np.int64)
    if policies.ndim != 3 or policies.shape[1:] != reference.shape:
        raise ValueError(f"log_policies must have shape (P, {reference.shape}), got {policies.shape}")
    if numbers.shape != (1 + len(policies),) or numbers.sum() != reference.shape[1] or (numbers < 0).any():
        raise ValueError(
            f"counts must hold {1 + len(policies)} numbers (reference first) that sum to {reference.shape[1]}, "
            f"got {numbers.tolist()}"
        )
    if numbers[0] == 0:
        raise ValueError("the pool must hold samples of the reference itself: nothing else covers its bulk")
    used = numbers > 0
    shares = np.log(numbers[used] / numbers.sum())
    log_mixture = logsumexp(np.concatenate([reference[None], policies])[used] + shares[:, None, None], axis=0)
    base = reference - log_mixture
    return np.asarray(base - logsumexp(base, axis=1, keepdims=True))


def binary_kl(p: ArrayLike, q: ArrayLike) -> Floats:
    """KL between coins, p log(p/q) + (1-p) log((1-p)/(1-q)), nats.

    Example:
        >>> round(float(binary_kl(0.9, 0.5)), 4), round(float(binary_kl(0.99, 0.5)), 4)
        (0.3681, 0.6371)
    """
    first, second = np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)
    return np.asarray(rel_entr(first, second) + rel_entr(1 - first, 1 - second))


def binary_optimum(q: ArrayLike, beta: float) -> tuple[float, float]:
    """Mean KL and mean reward of the optimum of a reward that is 0 or 1, in closed form.

    Each prompt's share of reward 1 becomes sigmoid(logit q + 1/beta), at the cost `binary_kl` of that share against q.

    Args:
        q: (X,) probability of reward 1 under the reference on each prompt, in [0, 1].
        beta: > 0.

    Returns:
        (KL in nats, reward).

    Example:
        >>> kl, reward = binary_optimum([0.5], beta=1 / np.log(9))
        >>> round(kl, 4), round(reward, 4)
        (0.3681, 0.9)
    """
    share = np.asarray(q, dtype=np.float64)
    if not (beta > 0 and ((share >= 0) & (share <= 1)).all()):
        raise ValueError(f"need beta > 0 and q in [0, 1], got beta {beta} and q {share.tolist()}")
    tilted = expit(logit(share) + 1 / beta)
    return float(binary_kl(tilted, share).mean()), float(tilted.mean())


def binary_reward_at(q: ArrayLike, kl: float) -> float:
    """The most reward 0-or-1 that a mean KL of `kl` nats can buy; all that is possible once kl reaches mean(-log q).

    Example:
        >>> round(binary_reward_at([0.5], 0.3681), 3), binary_reward_at([0.5], 0.7)
        (0.9, 1.0)
    """
    share = np.asarray(q, dtype=np.float64)
    if not kl >= 0:
        raise ValueError(f"kl must be >= 0, got {kl}")
    least, most = 1e-12, 700.0
    ends = [binary_optimum(share, 1 / strength) for strength in (least, most)]
    if kl >= ends[1][0]:
        return ends[1][1]
    if kl <= ends[0][0]:
        return ends[0][1]
    strength = brentq(lambda at: binary_optimum(share, 1 / at)[0] - kl, least, most, xtol=1e-14, rtol=1e-14)
    return binary_optimum(share, 1 / strength)[1]


def strongest_tilt(rewards: Floats, log_base: Floats) -> Tilt:
    """The limit beta -> 0, all weight on the best samples of each prompt; arrays (X, 1)."""
    best = rewards == rewards.max(axis=1, keepdims=True)
    log_weights = np.where(best, log_base, -np.inf)
    mass = logsumexp(log_weights, axis=1, keepdims=True)
    weights = np.exp(log_weights - mass)
    concentration = math.log(rewards.shape[1]) + rel_entr(weights, 1.0).sum(axis=1, keepdims=True)
    ess = 1 / (weights**2).sum(axis=1, keepdims=True)
    return Tilt(rewards.max(axis=1, keepdims=True), -mass, np.full_like(mass, np.inf), ess, concentration)


def beta_grid(rewards: Floats, log_base: Floats, num: int = 128, least_kl: float = 1e-4) -> Floats:
    """(B,) falling betas from a tilt of about `least_kl` nats to one near the strongest the samples allow.

    Raises:
        ValueError: if no prompt has two samples with different rewards.
    """
    base = np.exp(log_base)
    centred = rewards - (base * rewards).sum(axis=1, keepdims=True)
    spread = math.sqrt(float((base * centred**2).sum(axis=1).mean()))
    if not spread > 1e-12 * max(1.0, float(np.abs(rewards).max())):
        raise ValueError("the reward does not vary within any prompt, so every policy has the reference's reward")
    # Near the reference KL = Var(r) / (2 beta^2).
    weak = math.sqrt(2 * least_kl) / spread
    most, log_num = float(strongest_tilt(rewards, log_base).kl.mean()), math.log(rewards.shape[1])
    strong = weak
    for _ in range(_DOUBLINGS):
        strong *= 2
        reached = tilt(rewards, np.array([1 / strong]), log_base)
        if reached.kl.mean() > 0.999 * most or reached.concentration.mean() > 0.95 * log_num:
            break
    return 1 / np.geomspace(weak, strong, num)
