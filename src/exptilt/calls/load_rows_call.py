"""`xt.load_rows`: rows of any source as a list of mappings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from os import PathLike, fspath
from typing import Any

from exptilt.calls.public_call import public_call
from exptilt.data.problems import RowError
from exptilt.data.read.rows_in_memory import rows_in_memory
from exptilt.data.read.sources import read_rows
from exptilt.errors import ConfigError, DataError
from exptilt.in_memory import holding
from exptilt.settings.source_settings import SourceConfig


@public_call
def load_rows(
    source: Any,
    split: str = "train",
    *,
    subset: str | None = None,
    revision: str | None = None,
    limit: int | None = None,
    columns: Mapping[str, str] | None = None,
    format: Callable[[dict[str, Any]], Mapping[str, Any] | None] | None = None,
) -> list[dict[str, Any]]:
    """Read rows as they are, to look at, change, and give to `xt.train`.

    Args:
        source: a .jsonl, .json, .csv, .tsv, .parquet or .arrow file (.gz, .zst allowed), a folder or pattern of them, a
            folder saved by datasets, a hub id; or rows in memory, in any form that `xt.train` takes.
        split: which split, where the source has splits.
        subset: configuration of a hub data set.
        revision: commit or tag of a hub data set.
        limit: at most so many rows, from the start.
        columns: names of the source's columns where they differ from ours: `{"prompt": "question"}`.
        format: a format of your own: makes a row of each row, or None to leave it out.

    Returns:
        (N,) mappings of column names to values.

    Raises:
        DataError: the source or a row of it cannot be read; the message names the file and the line.
        ConfigError: an argument is wrong.

    Example:
        >>> import exptilt as xt
        >>> xt.load_rows([{"question": "2 + 2 =", "chosen": " 4", "rejected": " 5"}], columns={"prompt": "question"})
        [{'chosen': ' 4', 'rejected': ' 5', 'prompt': '2 + 2 ='}]
    """
    if limit is not None:
        SourceConfig(path="rows", limit=limit)
    if format is not None and not callable(format):
        raise ConfigError(f"xt.load_rows: format: give a function of a row that gives a row, got {format!r}")
    if isinstance(source, str | PathLike):
        found = read_rows(fspath(source), split, subset=subset, revision=revision, limit=limit)
        return [row for row in (_row(row_id, row, columns, format) for row_id, row in found) if row is not None]
    held = rows_in_memory(source)
    with holding(held):
        found = read_rows(held.name, split, limit=limit)
        return [row for row in (_row(row_id, row, columns, format) for row_id, row in found) if row is not None]


def _row(row_id: str, row: Any, columns: Mapping[str, str] | None, form: Any) -> dict[str, Any] | None:
    if isinstance(row, RowError):
        raise DataError(f"{row_id}: {row}")
    theirs = {name: ours for ours, name in (columns or {}).items()}
    missing = next((name for name in theirs if name not in row), None)
    if missing is not None:
        raise DataError(f"{row_id}: has no column {missing!r}; it has {', '.join(map(str, row))}")
    renamed = {name: value for name, value in row.items() if name not in theirs}
    renamed |= {ours: row[name] for name, ours in theirs.items()}
    changed = renamed if form is None else form(renamed)
    if changed is not None and not isinstance(changed, Mapping):
        raise DataError(f"{row_id}: format gave {type(changed).__name__} {changed!r:.40}; it gives a mapping, or None")
    return None if changed is None else dict(changed)
