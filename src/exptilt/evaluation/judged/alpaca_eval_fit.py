"""AlpacaEval 2's length-controlled win rate as its code computes it: for comparison with published numbers only.

    maximise  sum_i w_i [y_i z_i - log(1 + exp z_i)] - |beta|_1 / C
    z = beta_1 tanh(delta / sd(delta)) + beta_2 difficulty + beta_3,   delta = length of baseline - length of model
    rate = 100 mean_i sigma(beta_2 difficulty_i + beta_3)

Its code takes the first N difficulties for the N rows of a model, also where an instruction is missing in the middle; to
meet a published number of such a model (2.8 points for gpt35_turbo_instruct), give `fit` those. The rows of the two gamed
baselines (verbose, concise) have weight 0.1 each and no third feature. Its published "standard error" is the spread of fitted
values; it covers 20 % where 95 % is meant, so none is computed here: `length_controlled` has an interval. Source: Dubois et
al. 2024, arXiv 2404.04475; `glm_winrate.py` of alpaca_eval 0.6.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize

from exptilt.evaluation.intervals import Floats, finite

_GAMED_WEIGHT = 0.1


@dataclass(frozen=True)
class GamedBaselines:
    """The auxiliary rows: their features, and what their soft labels enter the fit through."""

    tanh_gap: Floats
    """(R,) tanh of the standardised length gap, standardised for each variant."""
    difficulty: Floats
    """(R,)"""
    label_sums: Floats
    """(2,) sums of label * feature."""

    @classmethod
    def of(cls, gaps: list[Floats], difficulty: ArrayLike, label_sums: ArrayLike) -> GamedBaselines:
        """From the length gaps of each variant, in the order of the difficulties."""
        hard = np.tile(finite(difficulty, "difficulty"), len(gaps))
        return cls(np.concatenate([standardised(gap) for gap in gaps]), hard, finite(label_sums, "label_sums"))


def standardised(gap: ArrayLike) -> Floats:
    """tanh(gap / sample standard deviation); 0 where all gaps are one."""
    values = finite(gap, "gap")
    spread = float(values.std(ddof=1))
    return np.asarray(np.tanh(values / spread)) if spread > 0 else np.zeros_like(values)


def fit(
    preference: ArrayLike, gap: ArrayLike, difficulty: ArrayLike, gamed: GamedBaselines, penalty_c: float
) -> Floats:
    """(3,) weights of length, difficulty and intercept.

    Args:
        preference: (N,) the judge's probability that the model is better, in [0, 1].
        gap: (N,) length of the baseline's answer minus that of the model's, characters.
        difficulty: (N,) of the instructions.
        gamed: the auxiliary rows.
        penalty_c: C of the L1 penalty.
    """
    labels = np.clip(finite(preference, "preference"), 0.0, 1.0)
    rows = np.stack([standardised(gap), finite(difficulty, "difficulty"), np.ones(len(labels))], axis=1)
    extra = np.stack([gamed.tanh_gap, gamed.difficulty, np.zeros(len(gamed.difficulty))], axis=1)
    features = np.concatenate([rows, extra])
    weights = np.concatenate([np.ones(len(rows)), np.full(len(extra), _GAMED_WEIGHT)])
    linear = rows.T @ labels + _GAMED_WEIGHT * np.append(gamed.label_sums, 0.0)

    def objective(parts: Floats) -> tuple[float, Floats]:
        beta = parts[:3] - parts[3:]  # both at least 0, so that |beta| is smooth
        z = features @ beta
        value = weights @ np.logaddexp(0, z) - linear @ beta + parts.sum() / penalty_c
        slope = features.T @ (weights / (1 + np.exp(-z))) - linear
        return float(value), np.concatenate([slope, -slope]) + 1 / penalty_c

    found = minimize(
        objective, np.full(6, 0.1), jac=True, method="L-BFGS-B", bounds=[(0, None)] * 6,
        options={"maxiter": 2000, "ftol": 1e-15, "gtol": 1e-9},
    )  # fmt: skip
    return np.asarray(found.x[:3] - found.x[3:])


def predicted_rate(weights: ArrayLike, difficulty: ArrayLike) -> float:
    """Win rate at equal length, in points out of 100.

    Example:
        >>> predicted_rate([1.0, 0.0, 0.0], [0.3, -0.2])
        50.0
    """
    beta = finite(weights, "weights")
    return float(100 * np.mean(1 / (1 + np.exp(-(beta[1] * finite(difficulty, "difficulty") + beta[2])))))
