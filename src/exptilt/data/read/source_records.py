"""Records of one source, with an account of every row."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exptilt.data import formats
from exptilt.data.formats.row_context import RowContext
from exptilt.data.memory.digests import Digests, digest
from exptilt.data.memory.spill import Shelf
from exptilt.data.problems import RowError
from exptilt.data.read.hub_files import files_on_hub
from exptilt.data.read.places import is_on_hub, is_pattern, place_of
from exptilt.data.read.row_reader import RowReader
from exptilt.data.read.sources import Row, read_rows
from exptilt.data.read.tables import licence_of
from exptilt.data.records import Record
from exptilt.data.stage_account import NOTHING, Account, Decisions
from exptilt.errors import DataError
from exptilt.in_memory import is_in_memory
from exptilt.settings.source_settings import SourceConfig
from exptilt.wording import nearest

_NUM_SAMPLE_ROWS = 64
"""Rows looked at to tell the format."""
Named = tuple[str, Row | RowError]


@dataclass(frozen=True, kw_only=True)
class SourcePart:
    """One source of a split: its format, what its rows became and what was not used."""

    source: SourceConfig
    format: str
    rows: int
    account: Account
    """Of its rows."""
    columns_not_read: tuple[str, ...]
    licence: str | None
    first_of_row: NDArray[np.bool_]
    """Of each record whether it is the first that its row became."""

    @property
    def num_records(self) -> int:
        """Number of records made of the rows."""
        return len(self.first_of_row)


def read_part(source: SourceConfig, records: Shelf[Record], decisions: Decisions, prefix: str = "") -> SourcePart:
    """Read one source.

    Args:
        source: its path and the format of its rows.
        records: its records are appended here, behind those of other sources.
        decisions: about rows that ask nothing.
        prefix: put before row ids, where two sources have files of one name.

    Raises:
        DataError: if the source cannot be read, no format fits it, or the settings name columns that it has not.
    """
    _refuse_unknown(source)
    reading = _Reading(source, decisions, prefix)
    named = reading.rows()
    sample: list[Named] = []
    readable: list[Row] = []
    for row_id, row in named:
        sample.append((row_id, row))
        if not isinstance(row, RowError):
            readable.append(row)
        if readable and len(sample) >= _NUM_SAMPLE_ROWS:
            break
    each = chain(sample, named)
    columns_not_read: tuple[str, ...] = ()
    format_name: str = source.format
    if readable:
        try:
            adapter, _ = formats.find(readable, source.path, source.format)
        except DataError:
            reading.refuse_unseen()
            raise
        format_name = adapter.name
        reader = RowReader(adapter, readable, labels=source.labels, steps=source.steps)
        reading.read(reader, reading.merged(each, adapter) if adapter.gather else each, records)
        reading.account += reader.unread(prefix + source.path)
        columns_not_read = reader.columns_not_read
    else:
        for row_id, row in each:
            if isinstance(row, RowError):
                reading.leave_out(row_id, row)
    reading.refuse_unseen()
    return SourcePart(
        source=source,
        format=format_name,
        rows=reading.num_rows,
        account=reading.account,
        columns_not_read=columns_not_read,
        # Last, as it may ask the hub: a source that is not there has failed by now.
        licence=source.licence or _licence(source),
        first_of_row=np.frombuffer(reading.first_of_row, dtype=np.bool_),
    )


class _Reading:
    """One source while it is read, row by row."""

    def __init__(self, source: SourceConfig, decisions: Decisions, prefix: str) -> None:
        self._source = source
        self._decisions = decisions
        self._prefix = prefix
        self._unseen = {*source.columns.values(), *source.where, *source.ignore_columns}
        """Columns that the settings name and no row has shown so far."""
        self._columns: set[str] = set()
        """Columns of the first rows, under the source's own names."""
        self.num_rows = 0
        self.account = NOTHING
        self.first_of_row = array("B")

    def leave_out(self, row_id: str, error: RowError) -> None:
        """Count a row that cannot be used."""
        self.account += Account.of(error.code, row_id, error.detail, left_out=True)

    def rows(self) -> Iterator[Named]:
        """Rows with columns renamed as `columns` says, filtered by `where`."""
        source = self._source
        rows = read_rows(source.path, source.split, subset=source.subset, revision=source.revision, limit=source.limit)
        for row_id, row in rows:
            self.num_rows += 1
            if isinstance(row, RowError):
                yield self._prefix + row_id, row
                continue
            self._unseen -= row.keys()
            if self.num_rows <= _NUM_SAMPLE_ROWS:
                self._columns |= row.keys()
            if all(_same(row.get(column), value) for column, value in source.where.items()):
                yield self._prefix + row_id, _renamed(row, source)
            else:
                self.account += Account.of("filtered", self._prefix + row_id, left_out=True)

    def merged(self, named: Iterable[Named], adapter: formats.Adapter) -> Iterator[Named]:
        """Rows with an equal key, merged into one row at the position of the first."""
        kept, keys = Shelf[tuple[str, Row]](), Digests()
        for row_id, row in named:
            try:
                if isinstance(row, RowError):
                    raise row
                keys.add(digest(f"{adapter.gather(row) if adapter.gather else ''}\x1d{RowContext.of(row).key}"))
            except RowError as error:
                self.leave_out(row_id, error)
                continue
            kept.append((row_id, row))
        for positions in keys.groups():
            ids, rows = zip(*(kept[position] for position in positions), strict=True)
            for row_id in ids[1:]:
                self.account += Account.of("joined", row_id, left_out=True)
            yield ids[0], {"rows": list(rows)}

    def read(self, reader: RowReader, named: Iterable[Named], records: Shelf[Record]) -> None:
        """Append the records that rows become."""
        for row_id, row in named:
            try:
                if isinstance(row, RowError):
                    raise row
                made = reader.records(row, _row_id(row_id, row))
            except RowError as error:
                self.leave_out(row_id, error)
                continue
            if reader.lacks_its_prompt(made):
                left_out = self._decisions.leave_out("empty_prompt")
                self.account += Account.of("empty_prompt", row_id, left_out=left_out)
                if left_out:
                    continue
            for number, record in enumerate(made):
                records.append(record)
                self.first_of_row.append(number == 0)

    def refuse_unseen(self) -> None:
        """Refuse settings that name a column no row has."""
        source = self._source
        for key, names in (
            ("columns", source.columns.values()),
            ("where", source.where),
            ("ignore_columns", source.ignore_columns),
        ):
            for name in names:
                if name in self._unseen and self._columns:
                    near = nearest(name, self._columns)
                    meant = f"; did you mean {near!r}?" if near else f"; it has {', '.join(sorted(self._columns))}"
                    raise DataError(f"{source.path}: data.{key} names {name!r}, and no row has such a column{meant}")


def _refuse_unknown(source: SourceConfig) -> None:
    known = formats.known_columns()
    for name in source.columns:
        if name not in known:
            near = nearest(name, known)
            meant = f"; did you mean {near!r}?" if near else ""
            raise DataError(f"{source.path}: data.columns.{name}: no format reads a column of that name{meant}")


def _same(value: Any, wanted: object) -> bool:
    return value == wanted or str(value).lower() == str(wanted).lower()


def _renamed(row: Row, source: SourceConfig) -> Row:
    """The row under our names, without the columns that the settings ignore."""
    if not source.columns and not source.ignore_columns:
        return row
    gone = {*source.columns.values(), *source.ignore_columns}
    renamed: dict[str, Any] = {name: value for name, value in row.items() if name not in gone}
    renamed.update({ours: row[theirs] for ours, theirs in source.columns.items() if theirs in row})
    return renamed


def _licence(source: SourceConfig) -> str | None:
    if is_pattern(source.path) or is_in_memory(source.path):
        return None
    if is_on_hub(source.path):
        listed = files_on_hub(source.path, source.split, source.subset, source.revision)
        if listed is not None:
            return listed.licence
    return licence_of(place_of(source.path), source.path, source.subset, source.revision)


def _row_id(row_id: str, row: Row) -> str:
    """The id of a row: its file and number, with the source's own id where there is one."""
    own = row.get("id")
    if not isinstance(own, str | int | float):
        return row_id
    said = str(own).encode("utf-8", "replace").decode()
    return f"{row_id}#{' '.join(said.split())[:80]}"
