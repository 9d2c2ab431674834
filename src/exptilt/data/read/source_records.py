"""Records of one source, with a count of every row that was left out and why."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from exptilt.data import formats
from exptilt.data.formats.fields import items, refuse_media, under
from exptilt.data.memory.digests import Digests, digest
from exptilt.data.memory.spill import Shelf
from exptilt.data.problems import Ledger, RowError
from exptilt.data.read.files import licence_of
from exptilt.data.read.sources import Row, read_rows
from exptilt.data.records import Record
from exptilt.errors import DataError
from exptilt.settings.data_settings import SourceConfig
from exptilt.wording import nearest

_NUM_SAMPLE_ROWS = 64
"""Rows looked at to tell the format."""
Named = tuple[str, Row | RowError]


@dataclass(kw_only=True)
class Part:
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

    def leave_out(self, ledger: Ledger, row_id: str, error: RowError) -> None:
        """Count a row that is left out."""
        ledger.leaves_out(error.code, row_id, error.detail)
        self.rows_left_out[error.code] += 1


def read_part(source: SourceConfig, records: Shelf[Record], ledger: Ledger, prefix: str = "") -> Part:
    """Read one source.

    Args:
        source: its path and the format of its rows.
        records: its records are appended here.
        ledger: counts rows that cannot be used.
        prefix: put before row ids, where two sources have files of one name.

    Raises:
        DataError: if the source cannot be read, no format fits it, or the settings name columns that it has not.
    """
    part = Part(source=source, format=source.format, unseen={*source.columns.values(), *source.where})
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
    named = chain(sample, rows)
    if readable:
        try:
            adapter, part.columns_not_read = formats.find(readable, source.path, source.format)
        except DataError:
            _refuse_unseen(part)
            raise
        part.format = adapter.name
        other = formats.also_fitting(readable, adapter, part.columns_not_read) if source.format == "auto" else None
        if other is not None:
            more = f"format {adapter.name} does not read {', '.join(other[1])}; data.format={other[0].name} does"
            ledger.note("other_format", detail=more)
        rows_or_groups = _merged_rows(named, adapter, part, ledger) if adapter.gather else named
        _read(part, adapter, rows_or_groups, records, ledger)
    else:
        for row_id, row in named:
            if isinstance(row, RowError):
                part.leave_out(ledger, row_id, row)
    _refuse_unseen(part)
    part.num_records = len(records) - before
    # Last, as it may ask the hub: a source that is not there has failed by now.
    part.licence = source.licence or licence_of(source.path, source.subset, source.revision)
    return part


def _read(part: Part, adapter: formats.Adapter, named: Iterable[Named], records: Shelf[Record], ledger: Ledger) -> None:
    for row_id, row in named:
        try:
            if isinstance(row, RowError):
                raise row
            refuse_media(row)
            made = adapter.record(row, _row_id(row_id, row))
            extra = template_args(row)
            for record in made if isinstance(made, tuple) else (made,):
                records.append(replace(record, template_args={**record.template_args, **extra}) if extra else record)
        except RowError as error:
            part.leave_out(ledger, row_id, error)


def _selected_rows(part: Part, ledger: Ledger, prefix: str) -> Iterator[Named]:
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
            yield prefix + row_id, _renamed(row, source.columns)
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


def _refuse_unseen(part: Part) -> None:
    """Refuse settings that name a column no row has."""
    for key, names in (("columns", part.source.columns.values()), ("where", part.source.where)):
        for name in names:
            if name in part.unseen and part.columns:
                near = nearest(name, part.columns)
                meant = f"; did you mean {near!r}?" if near else f"; it has {', '.join(sorted(part.columns))}"
                raise DataError(f"{part.source.path}: data.{key} names {name!r}, and no row has such a column{meant}")


def _same(value: Any, wanted: object) -> bool:
    return value == wanted or str(value).lower() == str(wanted).lower()


def _merged_rows(named: Iterable[Named], adapter: formats.Adapter, part: Part, ledger: Ledger) -> Iterator[Named]:
    """Rows with an equal key, merged into one row at the position of the first."""
    kept, keys = Shelf[tuple[str, Row]](), Digests()
    for row_id, row in named:
        try:
            if isinstance(row, RowError):
                raise row
            keys.add(digest(adapter.gather(row) if adapter.gather else ""))
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


def _renamed(row: Row, columns: Mapping[str, str]) -> Row:
    if not columns:
        return row
    taken = set(columns.values())
    renamed: dict[str, Any] = {name: value for name, value in row.items() if name not in taken}
    renamed.update({ours: row[theirs] for ours, theirs in columns.items() if theirs in row})
    return renamed


def _row_id(row_id: str, row: Row) -> str:
    """The id of a row: its file and number, with the source's own id where there is one."""
    own = row.get("id")
    if not isinstance(own, str | int | float):
        return row_id
    said = str(own).encode("utf-8", "replace").decode()
    return f"{row_id}#{' '.join(said.split())[:80]}"


def template_args(row: Row) -> dict[str, Any]:
    """Arguments for the chat template: the columns `tools` and `chat_template_kwargs`, as values or as JSON."""
    found: dict[str, Any] = {}
    given = _decoded(row.get("chat_template_kwargs"), "chat_template_kwargs")
    if given is not None:
        found |= {name: value for name, value in under(given, "chat_template_kwargs").items() if value is not None}
    tools = _decoded(row.get("tools"), "tools")
    if tools:
        found["tools"] = [
            tool if isinstance(tool, str) else dict(under(tool, f"tools[{at}]"))
            for at, tool in enumerate(items(tools, "tools"))
        ]
    return found


def _decoded(value: Any, column: str) -> Any:
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return json.loads(value)
    except ValueError:
        raise RowError("wrong_type", f"column {column!r} must hold JSON, got {value[:40]!r}") from None
