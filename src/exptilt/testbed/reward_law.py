"""The exact distribution of a reward, and what follows from it alone: best-of-n and its KL."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class RewardLaw(NamedTuple):
    """Distinct rewards in rising order, and their probabilities.

    Example:
        >>> law = RewardLaw.of(np.array([1.0, 0.0, 1.0]), np.array([0.25, 0.5, 0.25]))
        >>> law.mean, law.best_of(2).mean
        (0.5, 0.75)
        >>> round(law.best_of_kl(2), 6)  # 1/4 log 1/2 + 3/4 log 3/2
        0.130812
    """

    rewards: Floats
    probabilities: Floats

    @classmethod
    def of(cls, rewards: Floats, probabilities: Floats) -> RewardLaw:
        """Merge equal rewards and leave out those that cannot happen."""
        possible = probabilities > 0
        levels, owner = np.unique(rewards[possible], return_inverse=True)
        return cls(levels, np.bincount(owner, weights=probabilities[possible]).astype(np.float64))

    @property
    def mean(self) -> float:
        """E[r]."""
        return float(self.rewards @ self.probabilities)

    def best_of(self, num: int) -> RewardLaw:
        """The law of the largest of `num` independent rewards: F(r)^num - F(r-)^num, F the distribution function."""
        if num < 1:
            raise ValueError(f"best-of-n needs n >= 1, got {num}")
        below = np.concatenate([[0.0], self.probabilities.cumsum() / self.probabilities.sum()])
        return RewardLaw(self.rewards, np.diff(below**num))

    def best_of_kl(self, num: int) -> float:
        """KL of best-of-n against the law sampled from, in nats.

        Ties are broken by a fair coin, so within one reward the sequences keep their proportions and the
        sequence-level KL is that between the two laws of the reward. It is at most log n - (n - 1) / n, with equality
        in the limit of no ties.

        Source: the bound is Beirami et al. (2024), https://arxiv.org/abs/2401.01879.
        """
        best = self.best_of(num).probabilities
        with np.errstate(divide="ignore"):
            return float(relative_entropy(np.log(best), np.log(self.probabilities)).sum())


def relative_entropy(logps: Floats, reference: Floats) -> Floats:
    """Elementwise p * (log p - log q) from log-probabilities: 0 where p is 0, infinite where only q is."""
    impossible = np.isneginf(logps)
    terms: Floats = np.exp(logps) * (np.where(impossible, 0.0, logps) - np.where(impossible, 0.0, reference))
    return terms


def positive_beta(beta: float) -> float:
    """The beta, or a ValueError if it is not > 0 and finite."""
    if not 0 < beta < float("inf"):
        raise ValueError(f"beta must be > 0 and finite, got {beta}")
    return beta


def check_probabilities(name: str, values: Floats) -> None:
    """Refuse rows that are negative or do not sum to 1."""
    if not (values >= 0).all() or not np.allclose(values.sum(axis=-1), 1.0, atol=1e-9):
        raise ValueError(f"{name} must be probabilities that sum to 1 along the last axis")
