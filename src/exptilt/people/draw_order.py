"""Which comparison comes next, and how likely each was to come by now.

Every comparison has a waiting time `-log(u) / weight`, with u a hash of its id; the shortest comes first. With equal weights
that is a random order. Weights that favour what a policy or judge is unsure of make an active choice, which biases every
mean over what was asked. Since the first n of such an order are a bottom-n sample, the chance that a comparison was among
them, given the waiting time t of the next, is `1 - exp(-weight t)`; dividing by it removes the bias (rank conditioning:
Cohen & Kaplan, Summarizing Data using Bottom-k Sketches, 2007).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from exptilt.errors import ConfigError
from exptilt.people.items import Item
from exptilt.settings.label_settings import Strategy
from exptilt.votes.vote_records import Vote, canonical_order

Floats = NDArray[np.float64]
FLOOR = 0.05
"""Least weight beside the greatest of 1, so that everything can come."""


def fraction(*parts: object) -> float:
    """A number in (0, 1) that depends on nothing but its arguments.

    Example:
        >>> fraction("a", 1) == fraction("a", 1) != fraction("a", 2)
        True
    """
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode("utf-8", "replace"), digest_size=7).digest()
    return (int.from_bytes(digest, "big") + 0.5) / 2**56


def waiting_times(ids: Sequence[str], weights: ArrayLike, seed: int) -> Floats:
    """(I,) waiting times; the shortest comes first."""
    chances = np.array([fraction("item", seed, one) for one in ids])
    return np.asarray(-np.log(chances) / np.asarray(weights, dtype=np.float64))


def inclusion(times: ArrayLike, weights: ArrayLike, asked: ArrayLike) -> Floats:
    """(I,) the chance that each comparison was asked by now; NaN where it is not in the estimate.

    What was asked out of turn, behind the first that was not asked, is left out, as is what was not asked.

    Args:
        times: (I,) waiting times.
        weights: (I,) that they were drawn with.
        asked: (I,) whether somebody voted.

    Example:
        >>> inclusion([0.1, 0.5, 0.9], [1, 1, 1], [True, False, True]).round(3).tolist()
        [0.393, nan, nan]
    """
    waited, weight = np.asarray(times, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    done = np.asarray(asked, dtype=bool)
    next_time = waited[~done].min() if (~done).any() else np.inf
    return np.asarray(np.where(done & (waited < next_time), 1 - np.exp(-weight * next_time), np.nan))


def draw_weights(strategy: Strategy, items: Sequence[Item], votes: Sequence[Vote]) -> Floats:
    """(I,) weights of a strategy, in [FLOOR, 1].

    Args:
        strategy: random gives equal weights.
        items: in any order.
        votes: of the store, judges' votes among them.

    Raises:
        ConfigError: nothing says what is uncertain, or what is in dispute.
    """
    if strategy == "random":
        return np.ones(len(items))
    shares = _shares(votes)
    if strategy == "disagree":
        known = np.array([_disagreement(shares.get(item.id, ())) for item in items])
        advice = "two votes on some of these comparisons; ask judges first: `exptilt judge`"
    else:
        known = _uncertainty(items, shares)
        advice = "a `margin` in the rows, or votes of a judge in the store (`exptilt judge`)"
    if np.isnan(known).all():
        raise ConfigError(f"--next {strategy} needs {advice}")
    return np.asarray(np.maximum(FLOOR, np.nan_to_num(known, nan=1.0)))


def _shares(votes: Iterable[Vote]) -> Mapping[str, Sequence[float]]:
    shares: dict[str, list[float]] = defaultdict(list)
    for vote in votes:
        if (share := vote.first_share) is not None:
            shares[vote.comparison].append(share)
    return shares


def _disagreement(shares: Sequence[float]) -> float:
    """4 p (1 - p) of the mean share of hard votes: 1 where they are split, 0 where they agree."""
    if len(shares) < 2:
        return float("nan")
    mean = float(np.mean(shares))
    return 4 * mean * (1 - mean)


def _uncertainty(items: Sequence[Item], shares: Mapping[str, Sequence[float]]) -> Floats:
    """1 for the smallest margin, FLOOR for the greatest, by rank; votes of judges go before margins of the file."""
    given = [shares.get(item.id) for item in items]
    by_votes = np.array([np.nan if not one else abs(float(np.mean(one)) - 0.5) for one in given])
    by_margin = np.array([np.nan if item.margin is None else abs(item.margin) for item in items])
    by_margin[~np.isnan(by_votes)] = np.nan
    return np.asarray(np.where(np.isnan(by_votes), _by_rank(by_margin), _by_rank(by_votes)))


def _by_rank(distances: Floats) -> Floats:
    known = ~np.isnan(distances)
    if known.any():
        ordered = np.sort(distances[known])
        middle = np.searchsorted(ordered, distances, "left") + np.searchsorted(ordered, distances, "right")
        return np.asarray(np.where(known, FLOOR ** (middle / (2 * len(ordered))), np.nan))
    return distances


def order_shown(item: Item, rank: int, person: str, seed: int) -> tuple[int, ...]:
    """Positions in the sorted answers, in the order a person sees them.

    Of two neighbours in the order of work one is shown as the file has it and the other turned round, so every person
    sees each side first equally often (but for one); which of the two is turned is a hash.

    Args:
        item: the comparison.
        rank: its place in the order of work.
        person: who sees it.
        seed: of the page.
    """
    count = len(item.comparison.answers)
    if count == 2:
        turned = (fraction("side", seed, person, rank // 2) < 0.5) != bool(rank % 2)
        shown: Sequence[int] = (1, 0) if turned else (0, 1)
    else:
        shown = sorted(range(count), key=lambda at: fraction("side", seed, person, item.id, at))
    place = canonical_order(item.comparison)
    return tuple(place[at] for at in shown)
