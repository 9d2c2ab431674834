"""Answers with a tone, which never claims more than the intervals allow.

`good` and `bad` need an interval that excludes the compared value. Everything else is `unsure` (measured,
but not distinguishable, or without an interval) or `none` (not measured).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from exptilt.run_folder.estimate_record import Estimate

Tone = Literal["good", "bad", "unsure", "none"]
Side = Literal["above", "below", "overlaps", "unknown"]


@dataclass(frozen=True)
class PageAnswer:
    """One question, its answer in a few words, and the sentence behind it."""

    question: str
    answer: str
    detail: str
    tone: Tone


@dataclass(frozen=True)
class Conclusion:
    """The conclusion at the top of the page."""

    headline: str
    answers: tuple[PageAnswer, ...]


def compare(estimate: Estimate | None, level: float) -> Side:
    """The side of a level on which an estimate lies, by its interval alone.

    Example:
        >>> compare(Estimate(value=0.6, low=0.55, high=0.65), 0.5), compare(Estimate(value=0.6), 0.5)
        ('above', 'unknown')
    """
    if estimate is None or estimate.interval is None:
        return "unknown"
    low, high = estimate.interval
    return "above" if low > level else "below" if high < level else "overlaps"
