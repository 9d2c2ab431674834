"""Rewards of one prompt's completions to preferences between them; numbers alone, never imports torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

Which = Literal["best_worst", "all", "adjacent", "first_rest", "neighbours", "across"]


@dataclass(frozen=True, slots=True)
class PreferredPair:
    """One completion preferred to another, by position."""

    chosen: int
    rejected: int
    margin: float | None
    """Reward of chosen less that of rejected; a coin may prefer the smaller one. None without rewards."""
    p_chosen: float = 1.0


@dataclass(frozen=True, kw_only=True)
class PairRule:
    """Which two completions are compared, and how the comparison is decided."""

    which: Which = "best_worst"
    label: Literal["reward", "coin", "soft"] = "reward"
    scale: float = 1.0
    min_margin: float = 0.0
    keep_ties: bool = False

    def pairs(
        self,
        rewards: NDArray[np.float64],
        rng: np.random.Generator,
        left_out: Counter[str],
        sides: Sequence[int] | None = None,
    ) -> Iterator[PreferredPair]:
        """Preferences between completions of one prompt.

        Args:
            rewards: (K,) NaN where a completion is unscored; it is in no pair.
            rng: throws the coin, once for each pair.
            left_out: counts pairs that are not given, by reason.
            sides: (K,) 0 or 1, whose completion each is, for `across`.

        Example:
            >>> rule = PairRule(which="all")
            >>> found = list(rule.pairs(np.array([1.0, 3.0, np.nan, 2.0]), np.random.default_rng(0), Counter()))
            >>> [(pair.chosen, pair.rejected, pair.margin) for pair in found]
            [(1, 0, 2.0), (3, 0, 1.0), (1, 3, 1.0)]
        """
        for one, other in compared_positions(self.which, rewards, sides):
            difference = float(rewards[one] - rewards[other])
            heads = self.label == "coin" and rng.random() < expit(self.scale * difference)
            if difference == 0 and self.label != "coin":
                if self.keep_ties:
                    yield PreferredPair(one, other, 0.0, 0.5)
                else:
                    left_out["ties"] += 1
                continue
            if abs(difference) < self.min_margin:
                left_out["a smaller margin than min_margin"] += 1
                continue
            first_wins = heads if self.label == "coin" else difference > 0
            chosen, rejected = (one, other) if first_wins else (other, one)
            margin = float(rewards[chosen] - rewards[rejected])
            p_chosen = float(expit(self.scale * margin)) if self.label == "soft" else 1.0
            yield PreferredPair(chosen, rejected, margin, p_chosen)


def compared_positions(
    which: Which, rewards: NDArray[np.float64], sides: Sequence[int] | None = None
) -> list[tuple[int, int]]:
    """Positions of the two completions of every pair.

    Args:
        which: best_worst: the greatest and the smallest; all: each with each; adjacent: neighbours in the order of
            rewards; first_rest: the first with every other; neighbours: the first with the second, the third with the fourth,
            which makes independent pairs; across: the k-th of one side with the k-th of the other.
        rewards: (K,) NaN where a completion is unscored; it is in no pair. Of equal ones the first stands first.
        sides: (K,) 0 or 1, whose completion each is, for `across`.

    Example:
        >>> compared_positions("adjacent", np.array([1.0, 3.0, np.nan, 2.0]))
        [(1, 3), (3, 0)]
    """
    scored = [place for place in range(len(rewards)) if not np.isnan(rewards[place])]
    if which == "across":
        of_side = [[at for at in range(len(rewards)) if (sides or [0] * len(rewards))[at] == side] for side in (0, 1)]
        return [both for both in zip(*of_side, strict=False) if not np.isnan(rewards[list(both)]).any()]
    if which == "first_rest":
        return [(0, place) for place in scored if place] if 0 in scored else []
    if which == "neighbours":
        return [(at, at + 1) for at in range(0, len(rewards) - 1, 2) if at in scored and at + 1 in scored]
    if which == "all":
        return list(combinations(scored, 2))
    ranked = sorted(scored, key=lambda place: -rewards[place])
    if which == "adjacent":
        return list(pairwise(ranked))
    return [(ranked[0], ranked[-1])] if len(ranked) > 1 else []


def ranks_of(rewards: NDArray[np.float64]) -> list[int]:
    """Ranks, 1 for the greatest reward, equal ones sharing the best rank.

    Example:
        >>> ranks_of(np.array([0.5, 2.0, 0.5, -1.0]))
        [2, 1, 2, 4]
    """
    return [1 + int(np.sum(rewards > reward)) for reward in rewards]
