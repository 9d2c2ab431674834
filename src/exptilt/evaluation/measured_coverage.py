"""How often our intervals hold the true value, as measured; `benchmarks/coverage.py` prints this table."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

Method = Literal["studentised", "share", "calibration", "frontier"]

COVERAGE: dict[Method, dict[int, float]] = {
    "studentised": {5: 0.93, 10: 0.925, 20: 0.935, 30: 0.94, 100: 0.95},
    "share": {5: 0.95, 10: 0.95, 20: 0.95, 30: 0.95, 100: 0.95},
    "calibration": {30: 0.95, 100: 0.95},
    "frontier": {30: 0.92, 100: 0.92},
}
"""By method and number of prompts, of intervals at 95 %: the worst of the spreads that were tried."""


def measured_coverage(method: Method, num_prompts: int, level: float) -> float | None:
    """The coverage measured at the next lower number of prompts; None where it was not measured.

    Only 95 % was measured, and fewer prompts than the fewest tried are taken for unknown.

    Example:
        >>> measured_coverage("studentised", 35, 0.95) == COVERAGE["studentised"][30]
        True
        >>> measured_coverage("studentised", 35, 0.9) is None
        True
    """
    sizes = sorted(COVERAGE[method])
    if level != 0.95 or num_prompts < sizes[0]:
        return None
    at = next((small for small, large in pairwise(sizes) if num_prompts < large), sizes[-1])
    return COVERAGE[method][at]
