"""Ratings of several policies from pairwise verdicts: Bradley-Terry, with what such a scale hides.

    logit P(i beats j) = theta_i - theta_j + slot * (+1 where i was shown first)

A scale exists only where every policy is connected to every other by wins in both directions; otherwise no rating is given
and the groups are named. A scale also hides cycles (a beats b beats c beats a), so their number stands beside it, and the
von Neumann winner: the mixture of policies that wins at least half against every policy (Dudik et al. 2015, Swamy et al.
2024), which exists whatever the cycles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linprog
from scipy.sparse.csgraph import connected_components

from exptilt.evaluation.intervals import (
    DEFAULT,
    Clusters,
    Floats,
    Prompts,
    Resampling,
    divide,
    expanded_tail,
    resampled_weights,
)
from exptilt.evaluation.result import Panel
from exptilt.run_folder.estimate_record import Estimate

_ITERATIONS = 50
_CLOSE = 1e-9
_TINY = 1e-9
"""Ridge that only fixes the scale's free origin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratings(Panel):
    """Policies on one scale, if there is one."""

    policies: tuple[str, ...]
    ratings: tuple[Estimate, ...] | None
    """Log-odds against the average policy; None where the policies are not connected by wins in both directions."""
    slot: Estimate | None
    """Log-odds that the slot shown first gains; None where no policy was shown in both slots."""
    groups: tuple[tuple[str, ...], ...]
    """Sets of policies that are connected; one where a scale exists."""
    cycles: int
    """Triples in which each beats one and loses to one, among `triples`."""
    triples: int
    """Triples of which all three pairs were compared and none is even."""
    von_neumann: tuple[float, ...] | None
    """Shares of the mixture that wins at least half against every policy; None where a pair was never compared."""


def rate(
    policies: Sequence[str],
    first: ArrayLike,
    second: ArrayLike,
    first_wins: ArrayLike,
    prompts: Prompts,
    resampling: Resampling = DEFAULT,
) -> Ratings:
    """Rate policies.

    Args:
        policies: (P,) names.
        first: (N,) index of the policy shown first.
        second: (N,) index of the policy shown second.
        first_wins: (N,) 1, 0, 1/2 for a tie, or a probability; NaN where there is no verdict.
        prompts: (N,) the prompt of each verdict.
        resampling: bootstrap over prompts.

    Example:
        >>> wins = [1, 1, 1, 0, 1, 1, 0, 0]  # a won 3 of 4 where it was shown first, and 2 of 4 where b was
        >>> found = rate(["a", "b"], [0] * 4 + [1] * 4, [1] * 4 + [0] * 4, wins, [*"pqrs"] * 2)
        >>> round(found.ratings[0].value - found.ratings[1].value, 3)  # log(3) / 2
        0.549
    """
    chance = np.asarray(first_wins, dtype=np.float64)
    scored = np.isfinite(chance)
    if not scored.any():
        raise ValueError("there is no verdict to rate policies by")
    one, two = np.asarray(first)[scored], np.asarray(second)[scored]
    labels = np.asarray(prompts)[scored]
    table = _Verdicts(len(policies), one, two, chance[scored], Clusters(labels))
    groups = _groups(table)
    shares = table.shares()
    cycles, triples = count_cycles(shares)
    names = tuple(policies)
    rated = _bootstrapped(table, resampling) if len(groups) == 1 else None
    return Ratings(
        policies=names,
        ratings=None if rated is None else tuple(rated[:-1]),
        slot=None if rated is None or not table.has_slots else rated[-1],
        groups=tuple(tuple(names[k] for k in group) for group in groups),
        cycles=cycles,
        triples=triples,
        von_neumann=None if np.isnan(shares).any() else tuple(map(float, von_neumann_winner(shares))),
    )


def count_cycles(shares: Floats) -> tuple[int, int]:
    """Triples of policies that beat each other in a circle, and triples that could.

    Args:
        shares: (P, P) how often the row beats the column; NaN where they were not compared.

    Example:
        >>> count_cycles(np.array([[0.5, 0.9, 0.1], [0.1, 0.5, 0.9], [0.9, 0.1, 0.5]]))
        (1, 1)
    """
    beats = np.where(np.isnan(shares), 0, np.sign(np.nan_to_num(shares, nan=0.5) - 0.5))
    cycles = triples = 0
    for i, j, k in combinations(range(len(shares)), 3):
        around = (beats[i, j], beats[j, k], beats[k, i])
        triples += 0 not in around
        cycles += abs(sum(around)) == 3
    return int(cycles), triples


def von_neumann_winner(shares: Floats) -> Floats:
    """(P,) the mixture whose worst win rate against any policy is highest; by symmetry it is at least 1/2.

    Args:
        shares: (P, P) how often the row beats the column; shares[i, j] + shares[j, i] = 1.

    Example:
        >>> von_neumann_winner(np.array([[0.5, 0.9, 0.1], [0.1, 0.5, 0.9], [0.9, 0.1, 0.5]])).round(3).tolist()
        [0.333, 0.333, 0.333]
    """
    count = len(shares)
    found = linprog(
        np.append(np.zeros(count), -1.0),  # maximise the worst case
        A_ub=np.hstack([-shares.T, np.ones((count, 1))]),
        b_ub=np.zeros(count),
        A_eq=np.append(np.ones(count), 0.0)[None],
        b_eq=[1.0],
        bounds=[(0, 1)] * count + [(None, None)],
    )
    return np.asarray(np.maximum(found.x[:count], 0.0))


@dataclass(frozen=True)
class _Verdicts:
    policies: int
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    chance: Floats
    clusters: Clusters

    @property
    def has_slots(self) -> bool:
        """Whether some pair was shown in both orders, so that the slot can be told from the policies."""
        return bool(set(zip(self.first, self.second, strict=True)) & set(zip(self.second, self.first, strict=True)))

    def wins(self) -> Floats:
        table = np.zeros((self.policies, self.policies))
        np.add.at(table, (self.first, self.second), self.chance)
        np.add.at(table, (self.second, self.first), 1 - self.chance)
        return table

    def shares(self) -> Floats:
        wins = self.wins()
        shares = divide(wins, wins + wins.T)
        np.fill_diagonal(shares, 0.5)
        return shares

    def fit(self, weights: Floats) -> Floats:
        """(S, P + 1) ratings of mean 0 and the slot, for (S, C) weights of prompts, by Newton's method.

        The likelihood sees no more than how often each ordered pair was shown and won, so rows are added up first.
        """
        cell, index = np.unique(self.first * self.policies + self.second, return_inverse=True)
        shown = np.zeros((self.clusters.count, len(cell)))
        won = np.zeros_like(shown)
        np.add.at(shown, (self.clusters.index, index), 1.0)
        np.add.at(won, (self.clusters.index, index), self.chance)
        shown, won = weights @ shown, weights @ won
        design = np.zeros((len(cell), self.policies + 1))
        design[np.arange(len(cell)), cell // self.policies] += 1
        design[np.arange(len(cell)), cell % self.policies] -= 1
        design[:, -1] = float(self.has_slots)
        found = np.zeros((len(weights), self.policies + 1))
        for _ in range(_ITERATIONS):
            chance = 1 / (1 + np.exp(-(found @ design.T)))
            gradient = (won - shown * chance) @ design - _TINY * found
            curvature = np.einsum("sn,nk,nl->skl", shown * chance * (1 - chance), design, design, optimize=True)
            step = np.linalg.solve(curvature + _TINY * np.eye(design.shape[1]), gradient[..., None])[..., 0]
            found += np.clip(step, -2, 2)
            if np.abs(step).max() < _CLOSE:
                break
        found[:, :-1] -= found[:, :-1].mean(axis=1, keepdims=True)
        return found


def _groups(table: _Verdicts) -> list[list[int]]:
    count, label = connected_components(table.wins() > 0, directed=True, connection="strong")
    return [np.nonzero(label == group)[0].tolist() for group in range(count)]


_FAR = 15.0
"""Log-odds beyond which a resample is taken to have fallen apart: its ratings have no finite value."""


def _bootstrapped(table: _Verdicts, resampling: Resampling) -> list[Estimate]:
    count = table.clusters.count
    value = table.fit(np.ones((1, count)))[0]
    drawn = np.concatenate([table.fit(weights) for weights in resampled_weights(count, resampling)])
    drawn = np.where(np.abs(drawn) > _FAR, np.copysign(np.inf, drawn), drawn)  # an end there is not known
    tail = expanded_tail(resampling.level, count)
    low = np.quantile(drawn, tail, axis=0, method="lower")
    high = np.quantile(drawn, 1 - tail, axis=0, method="higher")
    return [
        Estimate(value=float(v), low=float(a), high=float(b), level=resampling.level, n=count)
        for v, a, b in zip(value, low, high, strict=True)
    ]
