"""How often our intervals hold the true value, as measured; `benchmarks/coverage.py` prints this table."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

Method = Literal["studentised", "share", "calibration", "frontier", "frontier beyond", "two seeds", "seeds"]

COVERAGE: dict[Method, dict[int, float]] = {
    "studentised": {2: 0.937, 3: 0.924, 5: 0.93, 10: 0.936, 20: 0.942, 30: 0.94, 100: 0.943},
    "share": {2: 1.0, 3: 0.998, 5: 0.986, 10: 0.966, 20: 0.913, 30: 0.93, 100: 0.947},
    "calibration": {2: 0.996, 3: 0.985, 5: 0.943, 10: 0.928, 20: 0.913, 30: 0.926, 100: 0.929},
    "frontier": {2: 0.94, 3: 0.928, 5: 0.934, 10: 0.932, 20: 0.95, 30: 0.952, 100: 0.946},
    "frontier beyond": {2: 0.95, 3: 0.942, 5: 0.966, 10: 0.95, 20: 0.942, 30: 0.925, 100: 0.833},
    "two seeds": {2: 0.993, 3: 0.993, 5: 0.978, 10: 0.934, 20: 0.891, 30: 0.883, 100: 0.89},
    "seeds": {2: 0.974, 3: 0.975, 5: 0.967, 10: 0.948, 20: 0.931, 30: 0.928, 100: 0.93},
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
