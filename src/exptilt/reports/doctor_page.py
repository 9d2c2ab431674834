"""The data report as one HTML page that opens from disk without a request."""

from __future__ import annotations

from pathlib import Path

from exptilt.reports.page_files import environment, require_reports, write_files
from exptilt.reports.tables.data_facts import facts, named
from exptilt.run_folder.data_record import DataReport, Finding

_TONES: dict[str, str] = {"error": "bad", "warning": "unsure", "info": "none"}
"""Most serious first."""


def write_doctor_page(report: DataReport, path: Path) -> Path:
    """Write the page; equal reports give equal bytes.

    Raises:
        CheckpointError: if something else is there, or it cannot be written.
    """
    require_reports([path], "--html")
    write_files({path: render_doctor_page(report)}, "--html")
    return path


def render_doctor_page(report: DataReport) -> str:
    """Render the page as text."""
    splits = list(report.splits.items())
    return (
        environment()
        .get_template("doctor.html")
        .render(
            report=report,
            splits=splits,
            facts=[(name, list(facts(split))) for name, split in splits],
            findings=_by_severity(report),
            tones=_TONES,
            also={finding.code: finding.also for finding in report.findings},
            examples=[(example, named(example.completions, report.kind)) for example in report.examples],
        )
    )


def _by_severity(report: DataReport) -> list[Finding]:
    order = list(_TONES)
    return sorted(report.findings, key=lambda finding: order.index(finding.severity))
