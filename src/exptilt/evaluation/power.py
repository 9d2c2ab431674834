"""What so many prompts can show: the smallest difference an evaluation finds, and how many prompts a difference needs."""

from __future__ import annotations

import math

from scipy.stats import norm


def minimum_detectable_difference(
    num_prompts: int, sd: float = 0.5, correlation: float = 0.0, power: float = 0.8, level: float = 0.95
) -> float:
    """The smallest true difference of two methods on the same prompts that an evaluation would find with this power.

        (z_{(1+level)/2} + z_power) * sd * sqrt(2 (1 - correlation) / num_prompts)

    Args:
        num_prompts: >= 1.
        sd: standard deviation of one prompt's value; 0.5 is the most a proportion can have.
        correlation: of the two methods over prompts, in [-1, 1); 0 if they are measured on different prompts.
        power: probability of finding the difference, in (0, 1).
        level: of the two-sided interval that must exclude 0, in (0, 1).

    Example:
        >>> round(minimum_detectable_difference(287, correlation=0.27), 3)
        0.1
    """
    if num_prompts < 1:
        raise ValueError(f"num_prompts must be >= 1, got {num_prompts}")
    return _detectable(sd, correlation, power, level) / math.sqrt(num_prompts)


def prompts_needed(
    difference: float, sd: float = 0.5, correlation: float = 0.0, power: float = 0.8, level: float = 0.95
) -> int:
    """How many prompts find a true `difference` with this power; the inverse of `minimum_detectable_difference`.

    Example:
        >>> prompts_needed(0.1, correlation=0.27)
        287
    """
    if not difference > 0:
        raise ValueError(f"difference must be > 0, got {difference}")
    return math.ceil((_detectable(sd, correlation, power, level) / difference) ** 2)


def _detectable(sd: float, correlation: float, power: float, level: float) -> float:
    if not (sd > 0 and -1 <= correlation < 1 and 0 < power < 1 and 0 < level < 1):
        raise ValueError(
            f"need sd > 0, correlation in [-1, 1), power and level in (0, 1), got {sd}, {correlation}, {power}, {level}"
        )
    quantiles = float(norm.ppf((1 + level) / 2) + norm.ppf(power))
    return quantiles * sd * math.sqrt(2 * (1 - correlation))
