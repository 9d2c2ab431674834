"""Length-controlled win rate: what A's rate would be if its answers were as long as B's.

    logit P(A wins) = theta + slot * (+1 where A was shown first, -1 where second) + gamma * tanh(gap / s)

s is the root mean square of the gap. The rate is the mean of sigma(theta + slot) and sigma(theta - slot), so it stands on
the scale of the swap-average, and it is antisymmetric: seen from B it is one minus itself. A direct effect of length is
assumed to be all that length does; what else goes with length (better answers are longer) is controlled away too.

Deviations from AlpacaEval 2 (Dubois et al. 2024, arXiv 2404.04475): no frozen difficulties of 805 instructions and no gamed
baselines, so that any data set will do; the slot is a term; the interval is a bootstrap over prompts of the whole fit, the
spread s included, where AlpacaEval's standard error is that of the fitted values, which covers 20 % instead of 95 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from exptilt.evaluation.intervals import DEFAULT, Floats, Resampling, resampled_weights
from exptilt.evaluation.judged.judgements import Judgements
from exptilt.evaluation.result import Panel
from exptilt.run_folder.estimate_record import Estimate

_WEAK = 1 / 5**2
"""Precision of the prior about 0 of every coefficient: it keeps a fit finite where one side wins everything."""
_POOL = 1.0
"""Precision of the prior of a policy's slope about the mean slope, where several policies are fitted."""
_ITERATIONS = 60
_CLOSE = 1e-8


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthControl(Panel):
    """A win rate without length, and what length does."""

    win_rate: Estimate
    slope: Estimate
    """gamma: log-odds per unit of tanh(gap / s); above 0 the judge prefers longer answers."""
    slot: Estimate
    """Log-odds that the slot shown first gains."""


def length_controlled(
    asked: Judgements, resampling: Resampling = DEFAULT, pooled: float | None = None
) -> LengthControl | None:
    """Fit the model and bootstrap the whole fit over prompts.

    Args:
        asked: verdicts with a gap; rows without a verdict carry nothing.
        resampling: bootstrap over prompts.
        pooled: the mean slope of several policies, toward which this one's slope is drawn; None for one policy alone.

    Returns:
        None where every gap is the same, so that length and quality cannot be told apart.

    Example:
        >>> gaps = np.tile([-100.0, 100.0], 50)
        >>> asked = Judgements(np.arange(100), (gaps > 0).astype(float), np.arange(100) // 2 % 2 == 0, gaps)
        >>> found = length_controlled(asked)
        >>> round(found.win_rate.value, 3), found.slope.value > 2
        (0.5, True)
    """
    design = _Design.of(asked)
    if design is None:
        return None
    found = design.fit(np.ones((1, design.prompts)), pooled)[0]
    drawn = np.concatenate([design.fit(weights, pooled) for weights in resampled_weights(design.prompts, resampling)])

    def estimate(values: Floats, resampled: Floats) -> Estimate:
        tail = (1 - resampling.level) / 2
        low, high = np.quantile(resampled, [tail, 1 - tail])
        return Estimate(value=float(values), low=float(low), high=float(high), level=resampling.level, n=design.prompts)

    return LengthControl(
        win_rate=estimate(rate_of(found), rate_of(drawn)),
        slot=estimate(found[..., 1], drawn[..., 1]),
        slope=estimate(found[..., 2], drawn[..., 2]),
    )


def length_controlled_together(
    policies: Mapping[str, Judgements], resampling: Resampling = DEFAULT
) -> dict[str, LengthControl | None]:
    """Fit several policies against one opponent; each slope is drawn a little toward the mean of all.

    The pooled slope is the mean of the slopes that each policy has alone, and is taken as known in the intervals.
    """
    designs = {name: _Design.of(asked) for name, asked in policies.items()}
    slopes = [float(d.fit(np.ones((1, d.prompts)), None)[0, 2]) for d in designs.values() if d is not None]
    pooled = float(np.mean(slopes)) if len(slopes) > 1 else None
    return {name: length_controlled(asked, resampling, pooled) for name, asked in policies.items()}


def rate_of(coefficients: Floats) -> Floats:
    """(...) win rates at equal length, averaged over the two slots, of (..., 3) coefficients."""
    theta, slot = coefficients[..., 0], coefficients[..., 1]
    return np.asarray((_sigmoid(theta + slot) + _sigmoid(theta - slot)) / 2)


@dataclass(frozen=True)
class _Design:
    cluster: np.ndarray[tuple[int], np.dtype[np.int64]]
    wins: Floats
    side: Floats
    gap: Floats
    prompts: int

    @classmethod
    def of(cls, asked: Judgements) -> _Design | None:
        if asked.gap is None:
            raise ValueError("the lengths of the answers are not known")
        rows = asked.scored
        gap = np.asarray(asked.gap)[rows]
        if not rows.any() or np.ptp(gap) == 0:
            return None
        clusters = asked.where(rows).clusters
        side = np.where(np.asarray(asked.shown_first)[rows], 1.0, -1.0)
        return cls(clusters.index, np.asarray(asked.wins)[rows], side, gap, clusters.count)

    def fit(self, weights: Floats, pooled: float | None) -> Floats:
        """(S, 3) theta, slot and slope for (S, C) weights of prompts: Newton's method on all resamples at once."""
        rows = weights[:, self.cluster]
        spread = np.sqrt((rows @ self.gap**2) / rows.sum(axis=1))
        features = np.empty((*rows.shape, 3))
        features[..., 0], features[..., 1] = 1.0, self.side
        features[..., 2] = np.tanh(self.gap / np.where(spread > 0, spread, 1.0)[:, None])
        precision = np.array([_WEAK, _WEAK, _WEAK if pooled is None else _POOL])
        centre = np.array([0.0, 0.0, pooled or 0.0])
        found = np.zeros((len(weights), 3))
        for _ in range(_ITERATIONS):
            chance = _sigmoid(np.einsum("snk,sk->sn", features, found))
            gradient = np.einsum("snk,sn->sk", features, rows * (self.wins - chance)) - precision * (found - centre)
            curvature = np.einsum("snk,sn,snl->skl", features, rows * chance * (1 - chance), features, optimize=True)
            step = np.linalg.solve(curvature + np.diag(precision), gradient[..., None])[..., 0]
            found += step / np.maximum(1.0, np.abs(step).max(axis=1, keepdims=True) / 2)
            if np.abs(step).max() < _CLOSE:
                break
        return found


def _sigmoid(values: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -500, 500))))
