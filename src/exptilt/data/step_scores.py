"""Numbers of the steps of one completion as one number, by a stated rule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

StepRule = Literal["min", "product", "mean", "last"]


def aggregated(steps: Sequence[float], rule: StepRule) -> float:
    """One number for a completion; NaN where it has no step or where a step has none.

    Args:
        steps: a number for each step, in order.
        rule: the least; the product; the mean; that of the last step.

    Raises:
        ValueError: a product is asked of numbers outside [0, 1].

    Example:
        >>> [aggregated([0.5, 1.0, 0.75], rule) for rule in ("min", "product", "mean", "last")]
        [0.5, 0.375, 0.75, 0.75]
    """
    if not len(steps) or any(math.isnan(step) for step in steps):
        return math.nan
    if rule == "product":
        outside = [step for step in steps if not 0 <= step <= 1]
        if outside:
            raise ValueError(f"a product needs steps in [0, 1], got {outside[0]:g}; use min, mean or last")
        return math.prod(steps)
    return {"min": min(steps), "mean": math.fsum(steps) / len(steps), "last": steps[-1]}[rule]
