"""How much of a number's spread is seeds of the training, and how much is prompts."""

from __future__ import annotations

import math

from numpy.typing import ArrayLike
from scipy.stats import t

from exptilt.evaluation.intervals import finite
from exptilt.evaluation.measured_coverage import measured_coverage
from exptilt.run_folder.estimate_record import Estimate
from exptilt.run_folder.frontier_record import Components


def variance_components(values: ArrayLike, level: float = 0.95) -> Components:
    """Mean of S runs that differ in their seed, measured on the same P prompts, with both kinds of spread.

        y_sp = mean + seed_s + prompt_p + rest_sp

    two-way random effects, from the mean squares MS of seeds, prompts and the rest:

        Var(seed) = (MS_s - MS_e) / P        Var(prompt) = (MS_p - MS_e) / S        Var(mean) = (MS_s + MS_p - MS_e) / (S P)

    and Student's quantile with Satterthwaite's degrees of freedom. Few seeds say little of their own spread: with two
    the interval may be very wide.

    Args:
        values: (S, P) mean reward (or KL) of each run on each prompt, S and P >= 2.
        level: of the interval, in (0, 1).

    Source: Searle, Casella and McCulloch (1992), chapter 4; Satterthwaite (1946).

    Example:
        >>> found = variance_components([[1.0, 2.0, 3.0], [2.0, 3.0, 4.0]])
        >>> found.mean.value, round(found.sd_of_seeds, 4), round(found.error_of_prompts, 4)
        (2.5, 0.7071, 0.5774)
    """
    rows = finite(values, "values")
    if rows.ndim != 2 or min(rows.shape) < 2:
        raise ValueError(f"values must be (seeds, prompts) with at least 2 of each, got {rows.shape}")
    seeds, prompts = rows.shape
    centre, by_seed, by_prompt = rows.mean(), rows.mean(axis=1), rows.mean(axis=0)
    rest = rows - by_seed[:, None] - by_prompt[None, :] + centre
    free = (seeds - 1, prompts - 1, (seeds - 1) * (prompts - 1))
    squares = (
        prompts * ((by_seed - centre) ** 2).sum() / free[0],
        seeds * ((by_prompt - centre) ** 2).sum() / free[1],
        (rest**2).sum() / free[2],
    )
    of_seeds, of_prompts, of_rest = (float(one) for one in squares)
    # A component estimated below 0 is taken for 0; the mean is never surer than its larger part alone.
    variance = max(of_seeds + of_prompts - of_rest, of_seeds, of_prompts) / (seeds * prompts)
    total = of_seeds**2 / free[0] + of_prompts**2 / free[1] + of_rest**2 / free[2]
    freedom = max(1.0, (variance * seeds * prompts) ** 2 / total) if total > 0 else 1.0
    half = float(t.ppf((1 + level) / 2, freedom)) * math.sqrt(variance)
    known = variance > 0
    return Components(
        mean=Estimate(
            value=float(centre),
            low=centre - half if known else None,
            high=centre + half if known else None,
            level=level,
            n=prompts,
            coverage=measured_coverage("two seeds" if seeds == 2 else "seeds", prompts, level),
        ),
        num_seeds=seeds,
        sd_of_seeds=math.sqrt(max(of_seeds - of_rest, 0) / prompts),
        error_of_prompts=math.sqrt(max(of_prompts - of_rest, 0) / seeds / prompts),
    )
