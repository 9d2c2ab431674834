"""Records of one source, with a count of every row that was left out and why."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from exptilt.data import formats
from exptilt.data.formats.row_context import RowContext
from exptilt.data.memory.digests import Digests, digest
from exptilt.data.memory.spill import Shelf
from exptilt.data.problems import Ledger, RowError
from exptilt.data.read.places import is_pattern, place_of
from exptilt.data.read.row_reader import RowReader
from exptilt.data.read.sources import Row, read_rows
from exptilt.data.read.tables import licence_of
from exptilt.data.records import Record
from exptilt.errors import DataError
from exptilt.settings.data_settings import SourceConfig
from exptilt.wording import nearest

_NUM_SAMPLE_ROWS = 64
"""Rows looked at to tell the format."""
Named = tuple[str, Row | RowError]


@dataclass(kw_only=True)
class SourcePart:
    """Account of one source: its format, and the rows and columns that were not used."""

    source: SourceConfig
    format: str
    rows: int = 0
    rows_left_out: Counter[str] = field(default_factory=Counter)
    columns_not_read: tuple[str, ...] = ()
    licence: str | None = None
    num_records: int = 0
    """Number of records made of the rows."""
    unseen: set[str] = field(default_factory=set)
    """Columns that the settings name and no row has shown so far."""
    columns: set[str] = field(default_factory=set)
    """Columns of the first rows, under the source's own names."""
    first_of_row: array[int] = field(default_factory=lambda: array("B"))
    """For each record 1 if it is the first that its row became, else 0."""

    def leave_out(self, ledger: Ledger, row_id: str, error: RowError) -> None:
        """Count a row that is left out."""
        ledger.leaves_out(error.code, row_id, error.detail)
        self.rows_left_out[error.code] += 1


def read_part(source: SourceConfig, records: Shelf[Record], ledger: Ledger, prefix: str = "") -> SourcePart:
    """Read one source.

    Args:
        source: its path and the format of its rows.
        records: its records are appended here.
        ledger: counts rows that cannot be used.
        prefix: put before row ids, where two sources have files of one name.

    Raises:
        DataError: if the source cannot be read, no format fits it, or the settings name columns that it has not.
    """
    named = {*source.columns.values(), *source.where, *source.ignore_columns}
    part = SourcePart(source=source, format=source.format, unseen=named)
    _refuse_unknown(source)
    before = len(records)
    rows = _selected_rows(part, ledger, prefix)
    sample: list[Named] = []
    readable: list[Row] = []
    for row_id, row in rows:
        sample.append((row_id, row))
        if not isinstance(row, RowError):
            readable.append(row)
        if readable and len(sample) >= _NUM_SAMPLE_ROWS:
            break
    each = chain(sample, rows)
    if readable:
        try:
            adapter, _ = formats.find(readable, source.path, source.format)
        except DataError:
            _refuse_unseen(part)
            raise
        part.format = adapter.name
        reader = RowReader(adapter, readable, labels=source.labels)
        gathered = _merged_rows(each, adapter, part, ledger) if adapter.gather else each
        _read(part, reader, gathered, records, ledger)
        part.columns_not_read = reader.columns_not_read
        reader.note_unread(prefix + source.path, ledger)
    else:
        for row_id, row in each:
            if isinstance(row, RowError):
                part.leave_out(ledger, row_id, row)
    _refuse_unseen(part)
    part.num_records = len(records) - before
    # Last, as it may ask the hub: a source that is not there has failed by now.
    part.licence = source.licence or _licence(source)
    return part


def _read(part: SourcePart, reader: RowReader, named: Iterable[Named], records: Shelf[Record], ledger: Ledger) -> None:
    for row_id, row in named:
        try:
            if isinstance(row, RowError):
                raise row
            made = reader.records(row, _row_id(row_id, row))
        except RowError as error:
            part.leave_out(ledger, row_id, error)
            continue
        if reader.lacks_its_prompt(made) and ledger.leaves_out("empty_prompt", row_id):
            part.rows_left_out["empty_prompt"] += 1
            continue
        for number, record in enumerate(made):
            records.append(record)
            part.first_of_row.append(number == 0)


def _selected_rows(part: SourcePart, ledger: Ledger, prefix: str) -> Iterator[Named]:
    """Rows with columns renamed as `columns` says, filtered by `where`."""
    source = part.source
    rows = read_rows(source.path, source.split, subset=source.subset, revision=source.revision, limit=source.limit)
    for row_id, row in rows:
        part.rows += 1
        if not isinstance(row, RowError):
            part.unseen -= row.keys()
            if part.rows <= _NUM_SAMPLE_ROWS:
                part.columns |= row.keys()
        if isinstance(row, RowError):
            yield prefix + row_id, row
        elif all(_same(row.get(column), value) for column, value in source.where.items()):
            yield prefix + row_id, _renamed(row, source)
        else:
            ledger.note("filtered", prefix + row_id)
            part.rows_left_out["filtered"] += 1


def _refuse_unknown(source: SourceConfig) -> None:
    known = formats.known_columns()
    for name in source.columns:
        if name not in known:
            near = nearest(name, known)
            meant = f"; did you mean {near!r}?" if near else ""
            raise DataError(f"{source.path}: data.columns.{name}: no format reads a column of that name{meant}")


def _refuse_unseen(part: SourcePart) -> None:
    """Refuse settings that name a column no row has."""
    for key, names in (
        ("columns", part.source.columns.values()),
        ("where", part.source.where),
        ("ignore_columns", part.source.ignore_columns),
    ):
        for name in names:
            if name in part.unseen and part.columns:
                near = nearest(name, part.columns)
                meant = f"; did you mean {near!r}?" if near else f"; it has {', '.join(sorted(part.columns))}"
                raise DataError(f"{part.source.path}: data.{key} names {name!r}, and no row has such a column{meant}")


def _same(value: Any, wanted: object) -> bool:
    return value == wanted or str(value).lower() == str(wanted).lower()


def _merged_rows(named: Iterable[Named], adapter: formats.Adapter, part: SourcePart, ledger: Ledger) -> Iterator[Named]:
    """Rows with an equal key, merged into one row at the position of the first."""
    kept, keys = Shelf[tuple[str, Row]](), Digests()
    for row_id, row in named:
        try:
            if isinstance(row, RowError):
                raise row
            keys.add(digest(f"{adapter.gather(row) if adapter.gather else ''}\x1d{RowContext.of(row).key}"))
        except RowError as error:
            part.leave_out(ledger, row_id, error)
            continue
        kept.append((row_id, row))
    for positions in keys.groups():
        ids, rows = zip(*(kept[position] for position in positions), strict=True)
        for row_id in ids[1:]:
            ledger.note("joined", row_id)
            part.rows_left_out["joined"] += 1
        yield ids[0], {"rows": list(rows)}


def _renamed(row: Row, source: SourceConfig) -> Row:
    """The row under our names, without the columns that the settings ignore."""
    if not source.columns and not source.ignore_columns:
        return row
    gone = {*source.columns.values(), *source.ignore_columns}
    renamed: dict[str, Any] = {name: value for name, value in row.items() if name not in gone}
    renamed.update({ours: row[theirs] for ours, theirs in source.columns.items() if theirs in row})
    return renamed


def _licence(source: SourceConfig) -> str | None:
    if is_pattern(source.path):
        return None
    return licence_of(place_of(source.path), source.path, source.subset, source.revision)


def _row_id(row_id: str, row: Row) -> str:
    """The id of a row: its file and number, with the source's own id where there is one."""
    own = row.get("id")
    if not isinstance(own, str | int | float):
        return row_id
    said = str(own).encode("utf-8", "replace").decode()
    return f"{row_id}#{' '.join(said.split())[:80]}"
