"""Facts about a data report for both pages: shares, labels, sources, and examples as the model reads them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from exptilt.kinds import KINDS
from exptilt.reports.numbers import number
from exptilt.run_folder.data_record import DataReport, Example, Finding, SplitReport
from exptilt.run_folder.run_contents import RunContents

_MEASURED = {
    "batches": "Micro-batches",
    "familiarity": "Does the reference know such text?",
    "ches": "How alike the two sides are",
}
"""Findings that are measurements, by code, and what each is called."""


class NamedCompletion(NamedTuple):
    """One completion of an example: its name, and its text in pieces that count or do not."""

    name: str
    pieces: Sequence[tuple[str, bool]]


def facts(split: SplitReport) -> Iterator[tuple[str, str]]:
    """Further facts about a split, in words."""
    shares = (
        ("The longer completion is chosen", split.longer_chosen, "pairs"),
        ("The one with more markup is chosen", split.more_markup_chosen, "pairs that differ in it"),
    )
    for name, share, of in shares:
        if share is not None:
            yield name, f"{number(100 * share, 1)} % of {of}"
    if split.p_chosen is not None:
        least, middle, most = (number(value) for value in split.p_chosen)
        yield "p_chosen", f"{least} to {most}, {middle} on average"
    if split.num_desirable or split.num_undesirable:
        yield "Labels", f"{number(split.num_desirable)} desirable, {number(split.num_undesirable)} not"
    if split.repeated:
        yield "Copies made by weights", number(split.repeated)
    if split.columns_not_read:
        yield "Columns not read", ", ".join(split.columns_not_read)
    for source in split.sources:
        yield (
            f"Source {source.path}",
            f"format {source.format}, {number(source.rows)} rows, {number(source.records)} records, "
            f"weight {number(source.weight)}, licence {source.licence or 'not known'}",
        )


def measured(findings: Iterable[Finding]) -> list[tuple[str, str]]:
    """Findings that are numbers and not faults: name and words."""
    return [(_MEASURED[finding.code], finding.message) for finding in findings if finding.code in _MEASURED]


def is_measured(finding: Finding) -> bool:
    """Tell whether a finding is one of those in `measured`."""
    return finding.code in _MEASURED


def named(completions: Sequence[Sequence[tuple[str, bool]]], kind: str) -> list[NamedCompletion]:
    """Completions of an example with their names in data of a kind."""
    names = next((known.sides for known in KINDS if known.name == kind), ())
    if len(names) != len(completions):
        names = tuple(f"completion {position}" for position in range(1, len(completions) + 1))
    return [NamedCompletion(name, pieces) for name, pieces in zip(names, completions, strict=True)]


@dataclass(frozen=True)
class DataGroup:
    """One data report, with the runs that share it."""

    runs: tuple[str, ...]
    report: DataReport

    @property
    def lengths(self) -> list[tuple[str, Any]]:
        """Length statistics by the name of the text they measure."""
        return [
            (f"{split}: {what.replace('_', ' ')}", value.as_dict())
            for split, account in self.report.splits.items()
            for what, value in account.lengths.items()
        ]

    @property
    def facts(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """Further facts about each split, by its name."""
        facts_of_splits = [(name, list(facts(split))) for name, split in self.report.splits.items()]
        return [(name, rows) for name, rows in facts_of_splits if rows]

    @property
    def measured(self) -> list[tuple[str, str]]:
        """Measurements of the data: the fill of batches, whether the reference knows such text."""
        return measured(self.report.findings)

    @property
    def findings(self) -> list[Finding]:
        """Findings of the checks that are not measurements."""
        return [finding for finding in self.report.findings if not is_measured(finding)]

    @property
    def examples(self) -> list[tuple[Example, list[NamedCompletion]]]:
        """Training rows as the model reads them, with named completions."""
        kind = self.report.kind
        return [(example, named(example.completions, kind)) for example in self.report.examples]


def data_groups(runs: Sequence[RunContents]) -> list[DataGroup]:
    """All data reports, each once with the runs that share it."""
    groups: list[tuple[DataReport, list[str]]] = []
    for run in runs:
        if run.data is None:
            continue
        for report, names in groups:
            if report == run.data:
                names.append(run.name)
                break
        else:
            groups.append((run.data, [run.name]))
    return [DataGroup(tuple(names), report) for report, names in groups]
