"""Sources of rows: a file, a saved folder or a hub data set, read by one function."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any

from exptilt.data.problems import RowError
from exptilt.data.read.files import read_file
from exptilt.data.read.hub_files import files_on_hub
from exptilt.data.read.places import files_of, is_on_hub, place_of
from exptilt.data.read.rows_in_memory import read_held
from exptilt.data.read.tables import is_saved, read_hub, read_saved
from exptilt.errors import DataError
from exptilt.in_memory import is_in_memory

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
        source: a file, a folder or a pattern of files, `-` for standard input, a folder saved by datasets, a hub id, or
            the name of rows in memory.
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


def _open(source: str, split: str, subset: str | None, revision: str | None) -> Iterator[tuple[str, Row | RowError]]:
    if is_in_memory(source):
        return read_held(source, split)
    path = place_of(source)
    if path is None and is_on_hub(source):
        return _on_hub(source, split, subset, revision)
    if path is not None and path.is_dir() and is_saved(path):
        return read_saved(path, split)
    files = files_of(source, split)
    names = Counter(file.name for file in files)
    return chain.from_iterable(_named(file, names[file.name] > 1) for file in files)


def _on_hub(source: str, split: str, subset: str | None, revision: str | None) -> Iterator[tuple[str, Row | RowError]]:
    """Rows of a hub data set: of its files, each fetched when its turn comes; or as datasets loads it."""
    listed = files_on_hub(source, split, subset, revision)
    if listed is None:
        return read_hub(source, split, subset, revision)
    names = Counter(Path(file.path).name for file in listed.files)
    rows = chain.from_iterable(_named(file, names[file.name] > 1) for file in listed.fetched())
    return ((f"{source}/{row_id}", row) for row_id, row in rows)


def _named(file: Path, by_folder: bool) -> Iterator[tuple[str, Row | RowError]]:
    """Rows of one of several files; the folder is named too where two files have the same name."""
    rows = read_file(file)
    return ((f"{file.parent.name}/{row_id}", row) for row_id, row in rows) if by_folder else rows
