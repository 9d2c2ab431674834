"""Differences of several runs on the same held-out pairs, pair by pair, which are sharper than two intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from exptilt.evaluation.intervals import paired_difference
from exptilt.evaluation.power import minimum_detectable_difference
from exptilt.run_folder.estimate_record import Estimate
from exptilt.run_folder.run_contents import RunContents
from exptilt.run_folder.samples_record import PairMargin

_MEASURES: dict[str, Callable[[PairMargin], float | None]] = {
    "Log-ratio accuracy": lambda one: one.log_ratio,
    "Likelihood-ranking accuracy": lambda one: one.likelihood,
    "Accuracy of scores": lambda one: one.score,
}


@dataclass(frozen=True)
class PairedDifference:
    """The difference of one run from the first run."""

    name: str
    base: str
    num_pairs: int
    num_prompts: int
    detectable: float
    """Percentage points two unrelated runs would have to differ by."""
    differences: dict[str, Estimate]
    """Percentage points."""


def paired_differences(runs: Sequence[RunContents]) -> list[PairedDifference]:
    """Compare every run with the first, on the pairs both were measured on; runs without common pairs are left out."""
    if len(runs) < 2:
        return []
    differences = [_compared(runs[0], run) for run in runs[1:]]
    return [difference for difference in differences if difference is not None]


def _compared(base: RunContents, run: RunContents) -> PairedDifference | None:
    """Compare two runs; a pair that occurs several times counts as often as both runs have it."""
    first, second = _by_place(base), _by_place(run)
    common = [key for key in first if key in second]
    if not common:
        return None
    prompts = [first[key].prompt for key in common]
    differences = {}
    for name, margin in _MEASURES.items():
        values = [[margin(side[key]) for key in common] for side in (second, first)]
        if any(value is None for column in values for value in column):  # measured without a reference
            continue
        mine, theirs = (100 * (np.sign(np.array(column, dtype=float)) + 1) / 2 for column in values)
        differences[name] = paired_difference(mine, theirs, prompts, most=100.0)
    num_prompts = len(set(prompts))
    return PairedDifference(
        name=run.name,
        base=base.name,
        num_pairs=len(common),
        num_prompts=num_prompts,
        detectable=100 * minimum_detectable_difference(num_prompts),
        differences=differences,
    )


def _by_place(run: RunContents) -> dict[tuple[str, int], PairMargin]:
    margins: dict[tuple[str, int], PairMargin] = {}
    seen: dict[str, int] = {}
    for margin in run.margins:
        seen[margin.pair] = seen.get(margin.pair, 0) + 1
        margins[margin.pair, seen[margin.pair]] = margin
    return margins
