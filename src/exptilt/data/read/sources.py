"""Sources of rows: a file, a saved folder or a hub data set, read by one function."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from exptilt.data.problems import RowError
from exptilt.data.read import files, hub
from exptilt.errors import DataError

Row = Mapping[str, Any]


def read_rows(
    source: str,
    split: str = "train",
    *,
    subset: str | None = None,
    revision: str | None = None,
    limit: int | None = None,
) -> Iterator[tuple[str, Row | RowError]]:
    """Read a source row by row; a row that cannot be read comes as a `RowError`, so that a policy can decide about it.

    Args:
        source: a file, a folder saved by datasets, or a hub id `owner/name`.
        split: which split, where the source has splits.
        subset: configuration of a hub data set.
        revision: commit or tag of a hub data set.
        limit: at most so many rows, from the start.

    Yields:
        The row's id (`file.jsonl:17`, lines and rows counted from 1) and the row or what is wrong with it.

    Raises:
        DataError: where the source as a whole cannot be read: no such file, cut gzip, damaged parquet, a git-lfs
            pointer, no rows.
    """
    empty = True
    for item in islice(_open(source, split, subset, revision), limit):
        empty = False
        yield item
    if empty:
        raise DataError(f"{source}: there is not one row in it; check that the file was written and downloaded whole")


def is_on_hub(source: str) -> bool:
    """Whether a source is read from the hub: it has the form of a hub id, is no existing path and has no suffix of a file type."""
    path = Path(source).expanduser()
    return hub.is_id(source) and not path.exists() and files.kind_of(path) is None


def _open(source: str, split: str, subset: str | None, revision: str | None) -> Iterator[tuple[str, Row | RowError]]:
    path = Path(source).expanduser()
    if path.is_dir():
        return files.read_saved(path, split)
    if path.is_file():
        return files.read_file(path)
    if is_on_hub(source):
        return files.read_hub(source, split, subset, revision)
    raise DataError(f"{source}: no such file or folder{files.meant(path)}")
