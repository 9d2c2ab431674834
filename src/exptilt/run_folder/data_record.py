"""data.json: what was read, what was kept, what was left out and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from exptilt.run_folder.record import FilePart, FileRecord
from exptilt.wording import counted


class Lengths(FilePart):
    """How long something is, over all kept examples, in tokens."""

    least: int | None = None
    median: float | None = None
    p95: float | None = None
    most: int | None = None
    total: int | None = None


class SourceReport(FilePart):
    """One source of a split."""

    path: str = ""
    format: str = ""
    rows: int | None = None
    records: int | None = None
    """What its rows became, before rows of all sources were compared."""
    weight: float = 1.0
    licence: str | None = None
    """As stated in the recipe or by the source; None: nothing is known."""


class SplitReport(FilePart):
    """The account of one split: rows less rows_left_out became examples; examples less examples_left_out were kept."""

    source: str | None = None
    format: str | None = None
    rows: int | None = None
    """Rows read."""
    rows_left_out: dict[str, int] = Field(default_factory=dict)
    """Why and how many, before conversion."""
    examples: int | None = None
    """What the remaining rows became; more than the rows where one row gives several pairs."""
    examples_left_out: dict[str, int] = Field(default_factory=dict)
    """Why and how many, after conversion."""
    kept: int | None = None
    """Examples to train or test on."""
    lengths: dict[str, Lengths] = Field(default_factory=dict)
    """Of prompts and of the counted tokens of each kind of completion."""
    longer_chosen: float | None = None
    """Share of kept pairs whose preferred completion has more characters; what 'the longer one wins' would score."""
    more_markup_chosen: float | None = None
    """Share of pairs whose preferred completion has more markup, among those that differ in it."""
    p_chosen: tuple[float, float, float] | None = None
    """Least, mean and most p_chosen of kept pairs."""
    num_desirable: int = 0
    num_undesirable: int = 0
    """Labels of kept ratings."""
    repeated: int = 0
    """Copies made by weights above 1; the examples include them."""
    sources: tuple[SourceReport, ...] = ()
    columns_not_read: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _one_count(cls, given: Any) -> Any:
        """A file without formats may count all rows left out under one key."""
        if not isinstance(given, Mapping) or "left_out" not in given:
            return given
        rest = {key: one for key, one in given.items() if key != "left_out"}
        return {"rows_left_out": given["left_out"]} | rest


class Finding(FilePart):
    """One problem of a data set, counted."""

    code: str = ""
    severity: str = ""
    """error, warning or info."""
    count: int | None = None
    examples: tuple[str, ...] = ()
    """Row ids, at most five."""
    message: str = ""
    fix: str = ""

    @property
    def also(self) -> str:
        """The rows behind the first that are remembered; dots where there are more."""
        first, *others = self.examples or ("",)
        return listed(tuple(others), first) + self._more if others else ""

    @property
    def _more(self) -> str:
        return ", ..." if (self.count or 0) > len(self.examples) else ""

    def __str__(self) -> str:
        several = self.examples and (self.count or 0) > 1
        rows = f" ({self.count} rows: {listed(self.examples)}{self._more})" if several else ""
        return f"{self.message}{rows}{'; ' if self.fix else ''}{self.fix}"


def listed(row_ids: tuple[str, ...], after: str = "") -> str:
    """`a.jsonl:1, 5, b.jsonl:2`: a file is named once; not at all where `after`, the row named before, is of it."""
    shown: list[str] = []
    last = after.rpartition(":")[0]
    for row_id in row_ids:
        file, _, number = row_id.rpartition(":")
        shown.append(number if file and file == last else row_id)
        last = file
    return ", ".join(shown)


class Example(FilePart):
    """One example as the model reads it."""

    id: str = ""
    prompt: str = ""
    completions: tuple[tuple[tuple[str, bool], ...], ...] = ()
    """Of each completion its text in pieces, and whether the tokens of the piece count."""


class DataReport(FileRecord):
    """data.json: the account of a data set."""

    source: str | None = None
    """Of files without formats; the splits name their sources."""
    kind: str = ""
    """What the rows were read as: pair, completion, unpaired, list."""
    train: SplitReport = SplitReport()
    test: SplitReport | None = None
    findings: tuple[Finding, ...] = ()
    examples: tuple[Example, ...] = ()
    """The first training examples, where there is a tokenizer to make them."""

    @model_validator(mode="before")
    @classmethod
    def _older_splits(cls, given: Any) -> Any:
        """A file without formats may hold its splits under `splits`."""
        if not isinstance(given, Mapping) or "splits" not in given:
            return given
        return dict(given["splits"]) | {key: one for key, one in given.items() if key != "splits"}

    @property
    def splits(self) -> dict[str, SplitReport]:
        """The splits there are, by name."""
        named = {"train": self.train if "train" in self.model_fields_set else None, "test": self.test}
        return {name: split for name, split in named.items() if split is not None}

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Findings that keep a run from starting."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @property
    def refusal(self) -> str:
        """Why a run would refuse these data; empty if it would take them."""
        count = len(self.errors)
        if count:
            return counted(count, "kind of error", "kinds of error")
        return "nothing is left to use" if any(split.kept == 0 for split in self.splits.values()) else ""

    def adding(self, *findings: Finding) -> DataReport:
        """The report with findings that were made later, such as those that need a model."""
        return self.model_copy(update={"findings": (*self.findings, *findings)})
