"""Tables with typed columns as rows: parquet, arrow, folders saved by datasets, data sets of the hub."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from exptilt.data.problems import RowError
from exptilt.data.read import hub
from exptilt.data.turns import without_added_nulls
from exptilt.errors import DataError
from exptilt.wording import in_one_line

Rows = Iterator[tuple[str, dict[str, Any] | RowError]]
_AT_ONCE = 1024
"""Rows made at a time."""


def after(number: int) -> str:
    """Where a file stops to be readable, in words."""
    return f"after row {number}: " if number else ""


def read_parquet(path: Path) -> Rows:
    """Rows of a parquet file."""
    import pyarrow.parquet

    def batches() -> Iterator[Any]:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=_AT_ONCE)

    return _numbered(str(path), path.name, batches(), "no parquet file")


def read_arrow(path: Path) -> Rows:
    """Rows of an Arrow file, of the format for streams (as datasets writes it) or for files (feather)."""
    import pyarrow

    def batches() -> Iterator[Any]:
        with pyarrow.memory_map(str(path)) as file:
            if file.read(6) == b"ARROW1":
                reader = pyarrow.ipc.open_file(file)
                yield from (reader.get_batch(at) for at in range(reader.num_record_batches))
            else:
                file.seek(0)
                yield from pyarrow.ipc.open_stream(file)

    return _numbered(str(path), path.name, batches(), "no Arrow file")


def is_saved(path: Path) -> bool:
    """Whether a folder was written by `datasets.save_to_disk`."""
    return any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))


def read_saved(path: Path, split: str) -> Rows:
    """Rows of a folder written by `datasets.save_to_disk`."""
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:  # whatever datasets and arrow raise, the folder is what is wrong
        raise DataError(f"{path}: no folder saved by datasets can be read there: {in_one_line(error)}") from None
    if isinstance(loaded, datasets.DatasetDict):
        if split not in loaded:
            raise DataError(f"{path}: has no split {split!r}; it has {', '.join(loaded)}")
        loaded = loaded[split]
    return rows_of_data_set(str(path), path.name, loaded)


def read_hub(source: str, split: str, subset: str | None, revision: str | None) -> Rows:
    """Rows of a data set on the Hugging Face hub."""
    name = f"{source}/{split}"
    return rows_of_data_set(name, name, hub.data_set(source, split, subset, revision))


def licence_of(path: Path | None, source: str, subset: str | None, revision: str | None) -> str | None:
    """What a folder saved by datasets, or a hub data set, says of its licence; None where it says nothing."""
    try:
        if path is None:
            import datasets

            said = datasets.load_dataset_builder(source, subset, revision=revision).info.license
        else:
            found = sorted(path.rglob("dataset_info.json")) if path.is_dir() else []
            said = json.loads(found[0].read_text(encoding="utf-8")).get("license") if found else None
    except Exception:  # a licence that cannot be found is no reason to stop; the report says that none is known
        return None
    return str(said) if said else None


def rows_of_data_set(path: str, name: str, loaded: Any) -> Rows:
    """Rows of a `datasets.Dataset` as Arrow holds them: no picture is decoded that nobody reads."""
    tables = loaded.with_format("arrow").iter(batch_size=_AT_ONCE)
    return _numbered(path, name, tables, "no data set")


def _numbered(path: str, name: str, batches: Iterable[Any], what: str) -> Rows:
    import pyarrow

    number = 0
    try:
        for batch in batches:
            for row in _rows_of(batch):
                number += 1
                yield f"{name}:{number}", row
    except (pyarrow.ArrowException, OSError) as error:
        damaged = "damaged" if number else f"damaged or {what}"
        raise DataError(f"{path}: {after(number)}{damaged}: {in_one_line(error)}") from None


def _rows_of(batch: Any) -> Iterable[dict[str, Any]]:
    """Rows of an Arrow batch; a cell that is no UTF-8 spoils no other, and its row only where the cell is read."""
    try:
        return [without_added_nulls(row) for row in batch.to_pylist()]
    except (ValueError, OverflowError):  # of text that is no UTF-8, or of a time that Python cannot hold
        cells = {name: _cells(batch.column(name)) for name in batch.schema.names}
        rows = ({name: column[at] for name, column in cells.items()} for at in range(batch.num_rows))
        return [without_added_nulls(row) for row in rows]


def _cells(column: Any) -> list[Any]:
    try:
        values: list[Any] = column.to_pylist()
        return values
    except (ValueError, OverflowError):
        return [_cell(value) for value in column]


def _cell(value: Any) -> Any:
    """A value; text that is no UTF-8 as its bytes, which no format takes for text."""
    try:
        return value.as_py()
    except (ValueError, OverflowError) as error:
        return bytes(error.object) if isinstance(error, UnicodeDecodeError) else b"\xff"
