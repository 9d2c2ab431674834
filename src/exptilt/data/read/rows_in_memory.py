"""Rows of a Python program: a list of mappings, or a table of datasets, pandas, polars or pyarrow."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from typing import Any

from exptilt.data.problems import RowError
from exptilt.data.read.tables import Rows, rows_of_data_set
from exptilt.errors import DataError
from exptilt.in_memory import InMemory, from_memory, kind_in

_TABLES = {"pandas": "to_dict", "polars": "to_dicts", "pyarrow": "to_pylist"}
"""The method that gives the rows of a table, by the library its class is from."""


def rows_in_memory(rows: Any, what: str = "rows") -> InMemory:
    """Give rows a name by their content, under which data settings can name them.

    Args:
        rows: an iterable of mappings, each a row; or a `datasets.Dataset` or `DatasetDict`, a table of pandas, polars or pyarrow.
        what: what they are called in messages and row ids: `rows:17` is the seventeenth.

    Raises:
        DataError: they are something else; the message says what.

    Example:
        >>> rows_in_memory([{"prompt": "2 + 2 =", "chosen": " 4", "rejected": " 5"}]).name
        'memory:rows-1f716c5854d6a02c'
    """
    library = type(rows).__module__.partition(".")[0]
    if library == "datasets":
        content = _data_set(rows, what)
        return InMemory.named(what, _digest(_all_rows(content, what)), content)
    content = _listed(rows, library, what)
    return InMemory.named(what, _digest(enumerate(content)), content)


def read_held(source: str, split: str) -> Rows:
    """Rows under a name that `rows_in_memory` gave them, in the form of the other readers."""
    what, content = kind_in(source), from_memory(source).content
    if isinstance(content, list):
        return ((f"{what}:{number}", row) for number, row in enumerate(content, start=1))
    if isinstance(content, Mapping):
        if split not in content:
            raise DataError(f"{what}: has no split {split!r}; it has {', '.join(content)}")
        content = content[split]
    return rows_of_data_set(what, what, content)


def _data_set(rows: Any, what: str) -> Any:
    if hasattr(rows, "num_rows"):
        return rows
    raise DataError(
        f"{what}: a data set that streams ({type(rows).__name__}) has no content to tell it by; give list(rows.take(10_000)), or "
        "its hub id with data.limit"
    )


def _all_rows(content: Any, what: str) -> Iterator[tuple[Any, Any]]:
    """Rows of a data set; of one with splits those of every split."""
    splits = content if isinstance(content, Mapping) else {"": content}
    for name, split in splits.items():
        yield from ((f"{name}{row_id}", row) for row_id, row in rows_of_data_set(what, what, split))


def _listed(rows: Any, library: str, what: str) -> list[dict[str, Any]]:
    """Rows as plain mappings, those of pandas without the cells that hold nothing."""
    if isinstance(rows, Mapping):
        raise DataError(
            f"{what}: a mapping of columns is no list of rows; give datasets.Dataset.from_dict(...), or a list"
        )
    if library in _TABLES and hasattr(rows, _TABLES[library]):
        method = getattr(rows, _TABLES[library])
        rows = method("records") if library == "pandas" else method()
    if isinstance(rows, str | bytes) or not isinstance(rows, Iterable):
        raise DataError(
            f"{what}: give a list of mappings, a datasets.Dataset, a table of pandas, a path or a hub id, got {_shown(rows)}"
        )
    listed: list[dict[str, Any]] = []
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            raise DataError(
                f"{what}: row {number} is {_shown(row)} and no mapping; a row is, for example, "
                '{"prompt": "2 + 2 =", "chosen": " 4", "rejected": " 5"}'
            )
        listed.append({str(name): _plain(value) for name, value in row.items() if not _is_nothing(value, library)})
    if not listed:
        raise DataError(f"{what}: there is not one row in it")
    return listed


def _shown(row: Any) -> str:
    shown = repr(row)
    return f"{type(row).__name__} {shown if len(shown) <= 40 else shown[:37] + '...'}"


def _is_nothing(value: Any, library: str) -> bool:
    """Whether a cell of a table is empty: None, or the NaN, NaT and NA that pandas has for it."""
    if library != "pandas" or value is None or hasattr(value, "__len__"):
        return library in _TABLES and value is None
    import pandas

    return bool(pandas.isna(value))


def _plain(value: Any) -> Any:
    """Numbers and arrays of numpy as those of Python; everything else as it is, tuples as lists."""
    if hasattr(value, "tolist") and type(value).__module__.partition(".")[0] == "numpy":
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _digest(rows: Iterable[tuple[Any, Any]]) -> str:
    digest = blake2b(digest_size=16)
    for _, row in rows:
        written = str(row) if isinstance(row, RowError) else json.dumps(row, default=repr)
        digest.update(written.encode() + b"\n")
    return digest.hexdigest()
