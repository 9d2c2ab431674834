"""The data report as one HTML page that opens from disk without a request."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from exptilt.data.problems import Finding, Severity
from exptilt.data.report import DataReport, Example, SplitReport
from exptilt.reports.page import environment, write_files
from exptilt.reports.wording import number

_TONES: dict[Severity, str] = {"error": "bad", "warning": "unsure", "info": "none"}
"""Most serious first."""


class Completion(NamedTuple):
    """One completion of an example: what it is called, and its text in pieces that count or do not."""

    name: str
    pieces: tuple[tuple[str, bool], ...]


def write_doctor_page(report: DataReport, path: Path) -> Path:
    """Write the page; the same report gives the same bytes.

    Raises:
        CheckpointError: if it cannot be written there.
    """
    write_files({path: render_doctor_page(report)}, "--html")
    return path


def render_doctor_page(report: DataReport) -> str:
    """The page as text."""
    splits = [(name, split) for name, split in (("train", report.train), ("test", report.test)) if split is not None]
    return (
        environment()
        .get_template("doctor.html")
        .render(
            report=report,
            splits=splits,
            facts=[(name, list(_facts(split))) for name, split in splits],
            findings=_by_severity(report),
            tones=_TONES,
            also={finding.code: finding.also for finding in report.findings},
            examples=[(example, _completions(example, report.kind)) for example in report.examples],
        )
    )


def _by_severity(report: DataReport) -> list[Finding]:
    order = list(_TONES)
    return sorted(report.findings, key=lambda finding: order.index(finding.severity))


def _completions(example: Example, kind: str) -> list[Completion]:
    numbered = [f"completion {place}" for place in range(1, len(example.completions) + 1)]
    names = ["chosen", "rejected"] if kind == "pair" else numbered if len(numbered) > 1 else ["completion"]
    return [Completion(name, pieces) for name, pieces in zip(names, example.completions, strict=True)]


def _facts(split: SplitReport) -> Iterator[tuple[str, str]]:
    """What else is known of a split, in words."""
    shares: dict[str, Any] = {
        "The longer completion is chosen": split.longer_chosen,
        "The one with more markup is chosen": split.more_markup_chosen,
    }
    for name, share in shares.items():
        if share is not None:
            yield name, f"{number(100 * share, 1)} % of pairs{' that differ in it' if 'markup' in name else ''}"
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
