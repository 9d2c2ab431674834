"""Rows of one source by its format, with an eye on what the format does not read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from exptilt.data import formats
from exptilt.data.formats.column_names import meaning_of
from exptilt.data.formats.fields import MEDIA
from exptilt.data.formats.judged import doubtful_verdict, from_zero
from exptilt.data.formats.known_formats import Row
from exptilt.data.formats.row_context import in_context
from exptilt.data.formats.single import STEP_RULE
from exptilt.data.problems import RowError
from exptilt.data.records import Record, words_of
from exptilt.data.stage_account import NOTHING, Account

Labels = Literal["auto", "0/1", "1/0", "1/2"]
Steps = Literal["prefix", "min", "product", "mean", "last"]


class RowReader:
    """Makes records of rows, and remembers what it had to leave unread or to guess.

    Args:
        adapter: the format of the source.
        sample: its first rows.
        steps: how the labels of steps become one score.
        labels: how verdicts in numbers are counted; auto takes them as 1/2 and says so where that may be wrong.
    """

    def __init__(
        self, adapter: formats.Adapter, sample: Sequence[Row], labels: Labels = "auto", steps: Steps = "prefix"
    ) -> None:
        self._adapter = adapter
        self._known = adapter.columns | adapter.beside | formats.ALWAYS | {*MEDIA, "rows"}
        self._labels = labels
        self._steps = steps
        self._columns: set[str] = set()
        self._unread: dict[str, str | None] = {}
        """Columns that hold something and are not read, and what each says by its name."""
        self._prompted = any(isinstance(row.get("prompt"), str) and row["prompt"].strip() for row in sample)
        self._prompts_needed = any(row.get("prompt") is not None for row in sample)
        self._doubtful: str | None = None
        """A column of verdicts, all of them 0 or 1 so far."""
        self._verdicts_known = False

    def records(self, row: Row, row_id: str) -> tuple[Record, ...]:
        """What a row becomes.

        Raises:
            RowError: with what is wrong with it.
        """
        rows: Sequence[Row] = row["rows"] if self._adapter.gather else [row]
        for each in rows:
            self._look_at_columns(each)
        if self._adapter.name == "judgement":
            row = self._counted_from_one(row)
        elif self._adapter.name == "stepwise":
            row = {**row, STEP_RULE: self._steps}
        made = in_context(self._adapter.record(row, row_id), rows, self._adapter.columns)
        if self._prompts_needed and row.get("prompt") is None and not any(record.prompt for record in made):
            raise RowError("missing_prompt", "the row has no prompt, and other rows of the source have one")
        return made

    def lacks_its_prompt(self, made: Sequence[Record]) -> bool:
        """Whether a row's prompt is blank where other rows ask something."""
        return self._prompted and not any(words_of(record.prompt).strip() for record in made)

    @property
    def columns_not_read(self) -> tuple[str, ...]:
        """Columns that held something and were not read, in order of their names."""
        known = self._columns & self._adapter.beside
        return tuple(sorted(name.encode("utf-8", "replace").decode() for name in (*self._unread, *known)))

    def unread(self, source: str) -> Account:
        """What the source says and nobody read."""
        account = NOTHING
        telling = {name: meaning for name, meaning in self._unread.items() if meaning is not None}
        other = formats.asked_for_instead(self._columns, self._adapter, self._unread.keys())
        if telling:
            instead = f"; data.format={other[0].name} reads {', '.join(other[1])}" if other else ""
            said = ", ".join(f"{name!r} (by its name {meaning})" for name, meaning in sorted(telling.items())[:5])
            name_all = f"data.ignore_columns=[{', '.join(sorted(telling))}]"
            detail = f"format {self._adapter.name} does not read {said}{instead}; to leave them out set {name_all}"
            account += Account.of("unread_column", source, detail)
        elif other and set(other[1]) & self._columns:
            more = f"format {self._adapter.name} does not read {', '.join(other[1])}; data.format={other[0].name} does"
            account += Account.of("other_format", detail=more)
        if self._doubtful and not self._verdicts_known and self._labels == "auto":
            detail = f"every {self._doubtful!r} is 0 or 1, which may count from 0 or from 1"
            account += Account.of("label_base", source, detail)
        return account

    def _look_at_columns(self, row: Row) -> None:
        self._columns |= row.keys()
        for name in row.keys() - self._known:
            if self._unread.get(name) is None and row[name] is not None:
                self._unread[name] = meaning_of(name, row[name], self._adapter.imitates)

    def _counted_from_one(self, row: Row) -> Row:
        """The row with its verdict counted from 1."""
        column = doubtful_verdict(row)
        if column is None:
            return row
        if self._labels in ("0/1", "1/0"):
            return {**row, column: from_zero(row[column], one_is_first=self._labels == "1/0")}
        self._doubtful = column
        self._verdicts_known = self._verdicts_known or not _is_zero_or_one(row[column])
        return row


def _is_zero_or_one(value: Any) -> bool:
    return str(value).strip() in ("0", "1", "0.0", "1.0")
