"""Evaluations of a run beside its own: on other rows, of another policy, against another reference."""

from __future__ import annotations

from collections.abc import Sequence

from exptilt.reports.numbers import estimate
from exptilt.reports.tables.page_sections import accuracies_of
from exptilt.run_folder.evaluation_record import Evaluation
from exptilt.run_folder.run_contents import RunContents


def further_evaluations(runs: Sequence[RunContents]) -> list[tuple[str, list[str], list[tuple[str, list[str]]]]]:
    """(run, names of its further evaluations, rows of a measure and its value in each)."""
    tables = []
    for run in runs:
        columns = [_measures(evaluation) for evaluation in run.further.values()]
        names = list(dict.fromkeys(name for column in columns for name in column))
        if names:
            rows = [(name, [column.get(name, "") for column in columns]) for name in names]
            tables.append((run.name, list(run.further), rows))
    return tables


def _measures(evaluation: Evaluation) -> dict[str, str]:
    sections = evaluation.sections
    named = {} if sections is None else {f"Accuracy, {name}": one for name, one in sections.sections.items()}
    measures = accuracies_of(evaluation) | {name: estimate(one, percent=True) for name, one in named.items()}
    return measures | ({} if evaluation.num_pairs is None else {"Pairs": str(evaluation.num_pairs)})
