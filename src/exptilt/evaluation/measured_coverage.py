"""How often our intervals hold the true value, as measured; `benchmarks/coverage.py` prints this table."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

Method = Literal["studentised", "share", "calibration", "frontier", "two seeds", "seeds"]

COVERAGE: dict[Method, dict[int, float]] = {
    "studentised": {5: 0.912, 10: 0.913, 20: 0.918, 30: 0.942, 100: 0.938},
    "share": {5: 0.982, 10: 0.962, 20: 0.918, 30: 0.935, 100: 0.932},
    "calibration": {5: 0.927, 10: 0.94, 20: 0.907, 30: 0.907, 100: 0.933},
    "two seeds": {2: 0.993, 3: 0.993, 5: 0.978, 10: 0.934, 20: 0.891, 30: 0.883, 100: 0.89},
    "seeds": {2: 0.974, 3: 0.975, 5: 0.967, 10: 0.948, 20: 0.931, 30: 0.928, 100: 0.93},
    "frontier": {5: 0.933, 10: 0.907, 20: 0.893, 30: 0.92, 100: 0.933},
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
