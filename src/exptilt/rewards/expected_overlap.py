"""Rewards of masks whose expectation under independent pixels is exact: overlap with the true mask, and right pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class MaskReward(Protocol):
    """What a mask is worth beside the true one, and what each pixel adds to it."""

    @property
    def name(self) -> str:
        """For tables."""
        ...

    @property
    def additive(self) -> bool:
        """Whether it is a sum over pixels; then the optimum of KL-constrained reward has independent pixels, too."""
        ...

    def moments(self, probabilities: Any, true: Any) -> tuple[float, Any]:
        """Expected reward, and what each class of each pixel adds to it.

        Args:
            probabilities: (K, N) of K classes at N independent pixels.
            true: (N,) class ids.

        Returns:
            E[r], and (K, N) of E[r | y_i = k] - E[r | y_i = 0], the other pixels drawn.
        """
        ...


@dataclass(frozen=True)
class ExpectedOverlap:
    """Dice or IoU with the true mask, the (weighted) mean over the classes that it holds, without the background.

    With s in [0, 1] and 1 / n = integral of s^(n - 1), for a class of t true pixels and p_i its probability at pixel i,

        E[Dice] = 2 int s^(t-1) prod_i (1 - p_i + p_i s) sum_{i in T} p_i s / (1 - p_i + p_i s) ds
        E[IoU]  = sum_{i in T} p_i int s^(t-1) prod_{i not in T} (1 - p_i + p_i s) ds

    and both are linear in each p_i, so that the derivative is what the pixel adds. The integrand is a polynomial, which
    Gauss-Legendre nodes integrate exactly, or, with as many nodes as two and a half roots of its effective degree, to 1e-10.

    A truth without any class but the background is worth 1 to an empty mask and 0 to all others. `MaskAnnotator` counts classes
    that are only in the mask with 0; here they are left out (no difference with two classes).

    Example:
        >>> value, adds = ExpectedOverlap().moments(np.array([[0.5, 1.0], [0.5, 0.0]]), np.array([1, 0]))
        >>> round(value, 6), np.round(adds[1], 6).tolist()
        (0.5, [1.0, -0.166667])
    """

    overlap: Literal["dice", "iou"] = "dice"
    weights: tuple[float, ...] = ()
    """Of classes but the background; all alike by default."""

    @property
    def name(self) -> str:
        """For tables."""
        return {"dice": "expected Dice", "iou": "expected IoU"}[self.overlap]

    @property
    def additive(self) -> bool:
        """Never."""
        return False

    def moments(self, probabilities: Any, true: Any) -> tuple[float, Any]:
        """See `MaskReward`."""
        held = [label for label in range(1, len(probabilities)) if (true == label).any()]
        if not held:
            return _emptiness(probabilities)
        weights = np.array([self.weights[label - 1] if self.weights else 1.0 for label in held])
        of_class = _dice if self.overlap == "dice" else _iou
        value, adds = 0.0, np.zeros_like(probabilities)
        for label, weight in zip(held, weights / weights.sum(), strict=True):
            expected, slope = of_class(probabilities[label], true == label)
            value += float(weight * expected)
            adds[label] = weight * slope
        return value, adds


@dataclass(frozen=True)
class PixelAccuracy:
    """Share of right pixels, each with the weight of its true class: sum_i w_{t_i} [y_i = t_i] / sum_i w_{t_i}.

    Example:
        >>> value, adds = PixelAccuracy().moments(np.array([[0.5, 1.0], [0.5, 0.0]]), np.array([1, 0]))
        >>> value, adds.tolist()
        (0.75, [[0.0, 0.0], [0.5, -0.5]])
    """

    weights: tuple[float, ...] = ()
    """Of classes, the background first; all alike by default."""

    @property
    def name(self) -> str:
        """For tables."""
        return "expected weighted accuracy" if self.weights else "expected accuracy"

    @property
    def additive(self) -> bool:
        """Always."""
        return True

    def moments(self, probabilities: Any, true: Any) -> tuple[float, Any]:
        """See `MaskReward`."""
        share = np.asarray(self.weights, dtype=np.float64)[true] if self.weights else np.ones(len(true))
        share = share / share.sum()
        pixels = np.arange(len(true))
        worth = np.zeros_like(probabilities)
        worth[true, pixels] = share
        return float((worth * probabilities).sum()), worth - worth[:1]


def _dice(p: Any, inside: Any) -> tuple[float, Any]:
    nodes, weights = _nodes(p, inside)
    factors = 1 - np.multiply.outer(p, 1 - nodes)  # (N, nodes)
    ratio = 1 / factors
    whole = weights * nodes ** (inside.sum() - 1) * factors.prod(0)
    hits = (p[inside, None] * nodes * ratio[inside]).sum(0)
    adds = ratio @ (2 * whole * (nodes - 1) * hits)
    own = ratio[inside]
    adds[inside] += own @ (2 * whole * nodes) - p[inside] * ((own * own) @ (2 * whole * nodes * (nodes - 1)))
    return float(2 * (whole * hits).sum()), adds


def _iou(p: Any, inside: Any) -> tuple[float, Any]:
    nodes, weights = _nodes(p, inside)
    factors = 1 - np.multiply.outer(p[~inside], 1 - nodes)
    whole = weights * nodes ** (inside.sum() - 1) * factors.prod(0)
    hits, share = p[inside].sum(), whole.sum()
    adds = np.empty_like(p)
    adds[inside] = share
    adds[~inside] = hits * ((1 / factors) @ (whole * (nodes - 1)))
    return float(hits * share), adds


def _emptiness(probabilities: Any) -> tuple[float, Any]:
    """The probability that all pixels are background, and what each pixel takes from it."""
    background = probabilities[0]
    logs = np.log(np.maximum(background, 1e-300))
    adds = np.repeat(-np.exp(logs.sum() - logs)[None], len(probabilities), 0)
    adds[0] = 0
    return float(np.exp(logs.sum())), adds


def _nodes(p: Any, inside: Any) -> tuple[Floats, Floats]:
    size, mean = float(inside.sum()), float(p.sum())
    likely = size + mean + 12 * math.sqrt(mean) + 12
    degree = min(likely, size + len(p))
    exact = (len(p) + int(size)) // 2 + 1
    return _legendre(min(exact, 8 * math.ceil(2.5 * math.sqrt(degree) / 8)))


@lru_cache(maxsize=256)
def _legendre(count: int) -> tuple[Floats, Floats]:
    """Nodes and weights on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return (nodes + 1) / 2, weights / 2


def mask_reward(measure: Literal["dice", "iou", "accuracy"], weights: Sequence[float] = ()) -> MaskReward:
    """The reward of a name.

    Args:
        measure: overlap, or share of right pixels.
        weights: of classes; of an overlap without the background, of the accuracy with it.
    """
    return PixelAccuracy(tuple(weights)) if measure == "accuracy" else ExpectedOverlap(measure, tuple(weights))
