"""A number with its interval: how every measurement is kept, in memory and in files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import model_validator

from exptilt.run_folder.record import FilePart

DOUBTFUL = 0.9
"""Intervals measured to cover less are marked wherever they are printed."""
FEW = 30
"""With fewer prompts the measured coverage stands beside every interval; from here on intervals hold what they say."""


class Estimate(FilePart):
    """A number, its interval, and the number of prompts (or independent units) behind it.

    What is not finite is not known, and becomes None: an undefined value, the ends of an interval of one prompt. A bare
    number in a file is an estimate without an interval.

    Example:
        >>> gain = Estimate(value=0.2, low=0.1, high=0.3, level=0.95, n=64)
        >>> str(gain), gain.excludes(0.0)
        ('0.200 [0.100, 0.300]', True)
        >>> str(Estimate(value=0.2, low=-math.inf, high=math.inf)), Estimate(value=0.2).excludes(0.0)
        ('0.200 [unknown]', False)
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    level: float | None = None
    """Share of such intervals that hold the true value, in (0, 1)."""
    n: int | None = None
    coverage: float | None = None
    """Share of such intervals that held the true value when it was measured with about this many prompts, in (0, 1)."""

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: Any) -> Any:
        if given is None or (isinstance(given, int | float) and not isinstance(given, bool)):
            given = {"value": given}
        if not isinstance(given, Mapping):
            return given
        return {key: None if isinstance(one, float) and not math.isfinite(one) else one for key, one in given.items()}

    @model_validator(mode="after")
    def _ordered(self) -> Estimate:
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low {self.low:g} is above high {self.high:g}")
        return self

    @property
    def interval(self) -> tuple[float, float] | None:
        """(low, high), or None where an end is not known."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    def excludes(self, value: float) -> bool:
        """Whether `value` lies outside the interval; never where an end is not known."""
        return self.interval is not None and not self.interval[0] <= value <= self.interval[1]

    @property
    def is_doubtful(self) -> bool:
        """Whether intervals like this one were measured to hold the truth less than 90 times in 100."""
        return self.interval is not None and self.coverage is not None and self.coverage < DOUBTFUL

    @property
    def coverage_note(self) -> str:
        """How often such intervals hold the truth, where that must stand beside one; empty elsewhere.

        Example:
            >>> Estimate(value=0.5, low=0.2, high=0.8, n=10, coverage=0.94).coverage_note
            ' (covers 94 %)'
            >>> Estimate(value=0.5, low=0.2, high=0.8, n=100, coverage=0.94).coverage_note
            ''
        """
        few = self.n is not None and self.n < FEW
        if self.interval is None or self.coverage is None or not (few or self.is_doubtful):
            return ""
        return f" (covers {'only ' if self.is_doubtful else ''}{100 * self.coverage:.0f} %)"

    def __str__(self) -> str:
        value = "undefined" if self.value is None else f"{self.value:.3f}"
        if self.interval is None:
            return f"{value} [unknown]"
        return f"{value} [{self.low:.3f}, {self.high:.3f}]{self.coverage_note}"
