"""Rows of both splits as checked records, with an account of every row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, NamedTuple

from exptilt.data import adapters
from exptilt.data.checks import check_across, check_leak, check_record, is_held_out
from exptilt.data.conversions import Kind, convert
from exptilt.data.problems import Ledger, RowError
from exptilt.data.records import Record
from exptilt.data.sources import DataConfig, Row, read_rows
from exptilt.errors import DataError

_NUM_SAMPLE_ROWS = 64
"""Rows looked at to tell the format."""


@dataclass(kw_only=True)
class Split:
    """The records of one split and the account of where they came from."""

    source: str
    format: str
    rows: int
    records: list[Record]
    rows_left_out: Counter[str] = field(default_factory=Counter)
    columns_not_read: tuple[str, ...] = ()


class Examples(NamedTuple):
    """What the records of a split became for one kind of objective."""

    num_converted: int
    kept: list[Record]
    left_out: Counter[str]


def read_splits(config: DataConfig, ledger: Ledger) -> tuple[Split, Split | None]:
    """Read training and held-out rows; no prompt is in both, or the ledger says so."""
    train = _read_split(config, config.train, config.split, config.limit, ledger)
    test: Split | None = None
    if config.test is not None or config.test_split is not None:
        source, split = config.test or config.train, config.test_split or config.split
        if (source, split) == (config.train, config.split):
            raise DataError(f"{source}: train and test are the same rows; set data.test_fraction to hold some out")
        test = _read_split(config, source, split, config.test_limit, ledger)
    elif config.test_fraction:
        test = _hold_out(train, config, ledger)
    return train, test


def _read_split(config: DataConfig, source: str, split: str, limit: int | None, ledger: Ledger) -> Split:
    rows = read_rows(source, split, subset=config.subset, revision=config.revision, limit=limit)
    named = ((row_id, _renamed(row, config.columns)) for row_id, row in rows)
    sample = list(islice(named, _NUM_SAMPLE_ROWS))
    readable = [row for _, row in sample if not isinstance(row, RowError)]
    result = Split(source=source, format=config.format, rows=0, records=[])
    adapter = None
    if readable:
        adapter, result.columns_not_read = adapters.find(readable, source, config.format)
        result.format = adapter.name
    for row_id, row in chain(sample, named):
        result.rows += 1
        try:
            if isinstance(row, RowError):
                raise row
            if adapter is None:
                adapter, result.columns_not_read = adapters.find([row], source, config.format)
                result.format = adapter.name
            result.records.append(adapter.record(row, _row_id(row_id, row)))
        except RowError as error:
            ledger.leaves_out(error.code, row_id, error.detail)
            result.rows_left_out[error.code] += 1
    return result


def _renamed(row: Row | RowError, columns: Mapping[str, str]) -> Row | RowError:
    if isinstance(row, RowError) or not columns:
        return row
    taken = set(columns.values())
    renamed: dict[str, Any] = {name: value for name, value in row.items() if name not in taken}
    renamed.update({ours: row[theirs] for ours, theirs in columns.items() if theirs in row})
    return renamed


def _row_id(row_id: str, row: Row) -> str:
    """The place of the row, and the source's own id where it has one."""
    own = row.get("id")
    if not isinstance(own, str | int | float):
        return row_id
    return f"{row_id}#{' '.join(str(own).split())[:80]}"


def _hold_out(train: Split, config: DataConfig, ledger: Ledger) -> Split:
    held_out = [record for record in train.records if is_held_out(record, config.test_fraction)]
    train.records = [record for record in train.records if not is_held_out(record, config.test_fraction)]
    if not held_out or not train.records:
        raise DataError(
            f"{config.train}: data.test_fraction={config.test_fraction:g} leaves {len(train.records)} rows to train on "
            f"and {len(held_out)} to test on; change it, or name a test file in data.test"
        )
    train.rows -= len(held_out)
    test = Split(source=train.source, format=train.format, rows=len(held_out), records=held_out)
    test.columns_not_read = train.columns_not_read
    for record in held_out[config.test_limit :] if config.test_limit is not None else ():
        ledger.note("over_limit", record.id)
        test.rows_left_out["over_limit"] += 1
    test.records = held_out[: config.test_limit]
    return test


def check_splits(train: Split, test: Split | None, ledger: Ledger) -> None:
    """Settle rows that repeat or contradict each other within a split, and prompts that are in both."""
    for split in (train, test):
        if split is not None:
            split.records, left_out = check_across(split.records, ledger)
            split.rows_left_out.update(left_out)
    if test is not None:
        train.records, count = check_leak(train.records, test.records, ledger)
        if count:
            train.rows_left_out["leak"] += count


def make_examples(split: Split, kind: Kind | None, config: DataConfig, ledger: Ledger) -> Examples:
    """Convert a split's records to what an objective needs (None: as they are) and check each."""
    converted: list[Record] = []
    for record in split.records:
        made = (record,) if kind is None else convert(record, kind, config.pairs)
        if isinstance(made, str):
            ledger.note(made, record.id)
            split.rows_left_out[made] += 1
        else:
            converted.extend(made)
    return _checked(converted, ledger)


def _checked(records: Sequence[Record], ledger: Ledger) -> Examples:
    kept, left_out = [], Counter[str]()
    for record in records:
        code = check_record(record, ledger)
        if code is None:
            kept.append(record)
        else:
            left_out[code] += 1
    return Examples(len(records), kept, left_out)


class Records(NamedTuple):
    """Checked records of both splits."""

    train: list[Record]
    test: list[Record]


def read_records(config: DataConfig, kind: Kind | None = None) -> Records:
    """Read records without a tokenizer, with every check on text made; for sampling prompts, judges and reports.

    Args:
        config: where the data is and what happens to wrong rows.
        kind: convert to what an objective of this kind is trained on; None leaves records as they were read.

    Raises:
        DataError: if a file cannot be read, or rows are wrong and no policy says what to do.
    """
    ledger = Ledger(config.policies)
    train, test = read_splits(config, ledger)
    check_splits(train, test, ledger)
    kept = make_examples(train, kind, config, ledger).kept
    kept_test = make_examples(test, kind, config, ledger).kept if test is not None else []
    refuse_errors(ledger.findings())
    return Records(kept, kept_test)


def refuse_errors(findings: Iterable[Any]) -> None:
    """Raise one `DataError` with a line for each finding that is an error."""
    lines: Iterator[str] = (str(finding) for finding in findings if finding.severity == "error")
    message = "\n".join(lines)
    if message:
        raise DataError(message)
