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
from scipy.sparse import csr_array

from exptilt.evaluation.intervals import DEFAULT, Floats, Resampling, expanded_tail, resampled_weights
from exptilt.evaluation.judged.judgements import Judgements
from exptilt.evaluation.result import Panel
from exptilt.run_folder.estimate_record import Estimate

_WEAK = 1 / 5**2
"""Precision of the prior about 0 of every coefficient: it keeps a fit finite where one side wins everything."""
_POOL = 1.0
"""Precision of the prior of a policy's slope about the mean slope, where several policies are fitted."""
_ITERATIONS = 60
_CLOSE = 1e-7


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
    coarse = _Design.of(asked, _MOST_GAPS) or design
    draws = resampled_weights(design.prompts, resampling)
    drawn = np.concatenate([coarse.fit(weights, pooled, found) for weights in draws])

    def estimate(values: Floats, resampled: Floats) -> Estimate:
        tail = expanded_tail(resampling.level, design.prompts)
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


_MOST_GAPS = 256
"""Different gaps a resample is fitted with; more are put together with their neighbours. What is reported is fitted with all."""


@dataclass(frozen=True)
class _Design:
    """Verdicts added up over rows of one slot and one gap: the likelihood sees no more of them."""

    shown: csr_array
    """(C, K) how many verdicts each prompt has in each of K cells."""
    won: csr_array
    """(C, K) how many of them A won."""
    side: Floats
    """(K,) +1 where A was shown first, -1 where second."""
    gap: Floats
    """(K,) the mean gap of a cell."""
    squares: Floats
    """(C,) sums of the squared gaps of each prompt's verdicts."""

    @property
    def prompts(self) -> int:
        return len(self.squares)

    @classmethod
    def of(cls, asked: Judgements, most_gaps: int | None = None) -> _Design | None:
        """The cells of verdicts; None where all gaps are one.

        Args:
            asked: verdicts with a gap.
            most_gaps: different gaps to keep apart; None keeps all.
        """
        if asked.gap is None:
            raise ValueError("the lengths of the answers are not known")
        rows = asked.scored
        gap = np.asarray(asked.gap)[rows]
        if not rows.any() or np.ptp(gap) == 0:
            return None
        known = asked.where(rows)
        clusters, first = known.clusters, np.asarray(known.shown_first)
        _, place = np.unique(gap, return_inverse=True)
        if most_gaps is not None and place.max() >= most_gaps:
            order = np.argsort(np.argsort(gap, kind="stable"))
            place = order * most_gaps // len(gap)
        _, cell = np.unique(2 * place + first, return_inverse=True)
        count = np.bincount(cell)
        at, shape = (clusters.index, cell), (clusters.count, len(count))
        return cls(
            csr_array((np.ones(len(gap)), at), shape),
            csr_array((np.asarray(known.wins), at), shape),
            np.where(np.bincount(cell, first) > 0, 1.0, -1.0),
            np.bincount(cell, gap) / count,
            clusters.sums(gap**2),
        )

    def fit(self, weights: Floats, pooled: float | None, start: Floats | None = None) -> Floats:
        """(S, 3) theta, slot and slope for (S, C) weights of prompts: Newton's method on all resamples at once.

        Args:
            weights: how often each prompt counts.
            pooled: see `length_controlled`.
            start: (3,) coefficients to begin with.
        """
        shown, won = (np.asarray((part.T @ weights.T).T) for part in (self.shown, self.won))
        spread = np.sqrt(weights @ self.squares / shown.sum(axis=1))
        bent = np.tanh(self.gap / np.where(spread > 0, spread, 1.0)[:, None])
        precision = np.array([_WEAK, _WEAK, _WEAK if pooled is None else _POOL])
        centre = np.array([0.0, 0.0, pooled or 0.0])
        found = np.tile(np.zeros(3) if start is None else start, (len(weights), 1))
        both = np.stack([np.ones(len(self.side)), self.side], axis=1)
        for _ in range(_ITERATIONS):
            chance = _sigmoid(found[:, :2] @ both.T + found[:, 2:] * bent)
            residual = won - shown * chance
            gradient = np.concatenate([residual @ both, (residual * bent).sum(axis=1, keepdims=True)], axis=1)
            step = _solved(
                shown * chance * (1 - chance), bent, both, precision, gradient - precision * (found - centre)
            )
            found += step / np.maximum(1.0, np.abs(step).max(axis=1, keepdims=True) / 2)
            if np.abs(step).max() < _CLOSE:
                break
        return found


def _solved(spread: Floats, bent: Floats, both: Floats, precision: Floats, gradient: Floats) -> Floats:
    """(S, 3) Newton steps: the curvature's six sums, since the slot's square is 1."""
    curved = spread * bent
    plain, mixed = spread @ both, curved @ both
    curvature = np.empty((len(spread), 3, 3))
    curvature[:, 0, 0] = curvature[:, 1, 1] = plain[:, 0]
    curvature[:, 0, 1] = curvature[:, 1, 0] = plain[:, 1]
    curvature[:, 2, :2] = curvature[:, :2, 2] = mixed
    curvature[:, 2, 2] = (curved * bent).sum(axis=1)
    return np.asarray(np.linalg.solve(curvature + np.diag(precision), gradient[..., None])[..., 0])


def _sigmoid(values: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -500, 500))))
