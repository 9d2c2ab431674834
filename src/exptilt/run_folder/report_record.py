"""report.json: every number that a report shows, for programs."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from exptilt.run_folder.record import FilePart, FileRecord


class AnswerRecord(FilePart):
    """One question of the page and its answer."""

    question: str
    answer: str
    detail: str
    tone: str
    """good, bad, unsure or none."""


class ConclusionRecord(FilePart):
    """The top of the page."""

    headline: str
    answers: tuple[AnswerRecord, ...] = ()


class RemarkRecord(FilePart):
    """One warning the page shows."""

    number: str = ""
    message: str = ""
    fix: str = ""


class ReportedRun(FilePart):
    """One run of the report: the content of its files, and what the page concludes from them."""

    name: str
    config: dict[str, Any]
    run: dict[str, Any] | None = None
    """`RunRecord`, its warnings as the page shows them."""
    data: dict[str, Any] | None = None
    """`DataReport`."""
    metrics: dict[str, list[float | None]]
    """Columns of metrics.jsonl."""
    evaluation: dict[str, Any] | None = None
    """`Evaluation`."""
    further: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """By name, further evaluations of the folder."""
    samples: tuple[dict[str, float | None], ...] = ()
    """Scores of the side-by-sides."""
    verdict: ConclusionRecord
    """What the page concludes of this run; the key is as old as the file."""
    is_this_normal: AnswerRecord | None = None


class ReportedDifference(FilePart):
    """One run less the first one, on the same pairs."""

    name: str
    base: str
    num_pairs: int
    num_prompts: int
    detectable: float
    differences: dict[str, dict[str, Any]]


class ReportRecord(FileRecord):
    """report.json."""

    title: str
    verdict: ConclusionRecord
    """What the page concludes of all runs; the key is as old as the file."""
    runs: tuple[ReportedRun, ...] = ()
    frontier: dict[str, Any] | None = None
    judged: dict[str, Any] | None = None
    """Win rates by judges."""
    """`Frontier`."""
    paired: tuple[ReportedDifference, ...] = ()
    cautions: tuple[RemarkRecord, ...] = ()
    missing: tuple[str, ...] = ()
    """What the report could have shown, and how to get it."""
