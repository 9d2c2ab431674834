"""Rows with ids from files and hub data sets. A bad row is given as a `RowError`; a bad file raises a `DataError`."""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

from exptilt.data.problems import MAX_EXAMPLES, RowError
from exptilt.data.read import hub
from exptilt.data.read.json_array import array_items
from exptilt.data.turns import without_added_nulls
from exptilt.errors import DataError
from exptilt.wording import SURE, first_line, nearest

Rows = Iterator[tuple[str, dict[str, Any] | RowError]]

_GZIP_MAGIC = b"\x1f\x8b"
_LFS_MAGIC = b"version https://git-lfs"
_BOM = b"\xef\xbb\xbf"
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_BLOCK = 1 << 18


def kind_of(path: Path) -> str | None:
    """The suffix that names the file type, without `.gz`; None for an unknown type."""
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    return suffix if suffix in _READERS else None


def read_file(path: Path) -> Rows:
    """Rows of one local file."""
    kind = kind_of(path)
    if kind is None:
        known = ", ".join(_READERS)
        raise DataError(f"{path}: unknown type of file; known are {known} (.gz allowed)")
    try:
        with path.open("rb") as file:
            start = file.read(len(_LFS_MAGIC))
    except OSError as error:
        raise DataError(f"{path}: cannot be opened: {error.strerror}") from None
    if start == _LFS_MAGIC:
        raise DataError(f"{path}: this is a git-lfs pointer, not the data; run `git lfs pull`")
    if not start:
        raise DataError(f"{path}: the file is empty")
    if start.startswith(_UTF_16):
        raise DataError(f"{path}: the file is UTF-16; write it as UTF-8")
    return _READERS[kind](path)


def _read_lines(path: Path) -> Rows:
    for number, line in _lines(path):
        if line.strip():
            row_id = f"{path.name}:{number}"
            try:
                yield row_id, _row(_json(line.rstrip(b"\r\n")))
            except RowError as error:
                yield row_id, error


def _read_json(path: Path) -> Rows:
    first = next((block.lstrip() for block in _blocks(path) if block.strip()), b"")
    if not first.startswith(b"["):
        yield from _read_lines(path)
        return
    items = enumerate(array_items(_blocks(path)), start=1)
    number = 0
    while True:
        try:
            number, value = next(items)
        except StopIteration:
            return
        except RowError as error:
            raise DataError(f"{path}: {_after(number)}{error.detail}") from None
        row_id = f"{path.name}:{number}"
        try:
            yield row_id, _row(value)
        except RowError as error:
            yield row_id, error


def _read_csv(path: Path) -> Rows:
    csv.field_size_limit(sys.maxsize)
    undecoded: list[RowError] = []
    reader = csv.reader(_text_lines(path, undecoded), strict=True)
    try:
        header = _csv_header(path, next(reader, []), undecoded)
        line = reader.line_num + 1
        for cells in reader:
            row_id = f"{path.name}:{line}"
            line = reader.line_num + 1
            if undecoded:
                yield row_id, undecoded[0]
                undecoded.clear()
            elif len(cells) == len(header):
                yield row_id, dict(zip(header, cells, strict=True))
            elif cells:
                said = f"{len(cells)} cells where the first line names {len(header)} columns"
                yield row_id, RowError("wrong_type", said)
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: not valid CSV: {error}") from None


def _csv_header(path: Path, header: list[str], undecoded: list[RowError]) -> list[str]:
    if undecoded:
        raise DataError(f"{path}: line 1: {undecoded[0].detail}")
    if len(set(header)) != len(header):
        raise DataError(f"{path}: two columns have the same name in the first line")
    mark = next((mark for mark in (";", "\t", "|") if len(header) == 1 and mark in header[0]), None)
    if mark is not None:
        raise DataError(f"{path}: the columns seem to be separated by {mark!r}; write the file with commas")
    return header


def _read_parquet(path: Path) -> Rows:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in _rows_of(batch):
                    number += 1
                    yield f"{path.name}:{number}", row
    except (pyarrow.ArrowException, OSError) as error:
        what = "damaged" if number else "damaged or no parquet file"
        raise DataError(f"{path}: {_after(number)}{what}: {first_line(error)}") from None


def _rows_of(batch: Any) -> Iterable[dict[str, Any] | RowError]:
    """Rows of an Arrow batch; a row with invalid UTF-8 becomes a `RowError` of its own."""
    try:
        return [without_added_nulls(row) for row in batch.to_pylist()]
    except UnicodeDecodeError as error:
        if batch.num_rows == 1:
            return [_not_utf8(error, "of its text")]
        return (row for at in range(batch.num_rows) for row in _rows_of(batch.slice(at, 1)))


_READERS: dict[str, Callable[[Path], Rows]] = {
    ".jsonl": _read_lines,
    ".ndjson": _read_lines,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def read_saved(path: Path, split: str) -> Rows:
    """Rows of a folder written by `datasets.save_to_disk`."""
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:  # whatever datasets and arrow raise, the folder is what is wrong
        names = sorted(entry.name for entry in path.iterdir() if entry.is_file() and kind_of(entry))
        if names:
            more = ", ..." if len(names) > MAX_EXAMPLES else ""
            inside = f"name one of the files in it instead: {', '.join(names[:MAX_EXAMPLES])}{more}"
            raise DataError(f"{path}: is a folder, but none saved by datasets; {inside}") from None
        raise DataError(f"{path}: no folder saved by datasets can be read there: {first_line(error)}") from None
    if isinstance(loaded, datasets.DatasetDict):
        if split not in loaded:
            raise DataError(f"{path}: has no split {split!r}; it has {', '.join(loaded)}")
        loaded = loaded[split]
    yield from _numbered(path.name, loaded)


def read_hub(source: str, split: str, subset: str | None, revision: str | None) -> Rows:
    """Rows of a data set on the Hugging Face hub."""
    yield from _numbered(f"{source}/{split}", hub.data_set(source, split, subset, revision))


def licence_of(source: str, subset: str | None, revision: str | None) -> str | None:
    """The licence that a folder saved by datasets, or a hub data set, states; None where it states none."""
    path = Path(source).expanduser()
    if path.is_file() or not source:
        return None
    try:
        if path.is_dir():
            found = sorted(path.rglob("dataset_info.json"))
            said = json.loads(found[0].read_text(encoding="utf-8")).get("license") if found else None
        else:
            import datasets

            said = datasets.load_dataset_builder(source, subset, revision=revision).info.license
    except Exception:  # a licence that cannot be found is no reason to stop; the report says that none is known
        return None
    return str(said) if said else None


def _numbered(name: str, rows: Any) -> Rows:
    import pyarrow

    number = 0
    try:
        for number, row in enumerate(rows, start=1):
            yield f"{name}:{number}", without_added_nulls(row)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{name}: {_after(number)}damaged: {first_line(error)}") from None


def _after(number: int) -> str:
    """The last readable row, as the start of a message."""
    return f"after row {number}: " if number else ""


def meant(path: Path) -> str:
    """`; did you mean ...?` where a file nearby has a similar name."""
    try:
        names = sorted(entry.name for entry in path.parent.iterdir())
    except OSError:
        return ""
    near = nearest(path.name, names, SURE)
    return f"; did you mean {path.parent / near}?" if near else ""


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines from 1, unpacked if the content is gzip, without a byte order mark."""
    yield from _parts(path, lambda file: file, "line {:,}")


def _blocks(path: Path) -> Iterator[bytes]:
    """Blocks of a fixed size, unpacked, without a byte order mark; memory is bounded whatever the length of lines."""
    return (
        block
        for _, block in _parts(
            path, lambda file: iter(partial(file.read, _BLOCK), b""), f"block {{:,}} of {_BLOCK:,} bytes"
        )
    )


def _parts(path: Path, split: Callable[[IO[bytes]], Iterable[bytes]], name: str) -> Iterator[tuple[int, bytes]]:
    number = 0
    try:
        with _open(path) as file:
            for number, part in enumerate(split(file), start=1):
                yield number, part.removeprefix(_BOM) if number == 1 else part
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise DataError(
            f"{path}: the gzip file is cut short or damaged after {name.format(number)}; fetch it again"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read after {name.format(number)}: {error.strerror}") from None


def _open(path: Path) -> AbstractContextManager[IO[bytes]]:
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP_MAGIC
    return cast("IO[bytes]", gzip.open(path, "rb")) if packed else path.open("rb")


def _text_lines(path: Path, undecoded: list[RowError]) -> Iterator[str]:
    """Lines as text; for a line with invalid UTF-8, an error is appended to `undecoded` before the line is given."""
    for number, line in _lines(path):
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            undecoded.append(_not_utf8(error, f"of line {number}"))
            yield line.decode("utf-8", "replace")


def _not_utf8(error: UnicodeDecodeError, of: str) -> RowError:
    return RowError("invalid_utf8", f"not valid UTF-8 at byte {error.start + 1} {of}")


def _json(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _not_utf8(error, "of the line") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        raise RowError("invalid_json", f"invalid JSON: {error.msg.removesuffix(' at')} at {where}") from None
    except RecursionError:
        raise RowError("invalid_json", "invalid JSON: nested too deeply") from None
    except ValueError as error:
        raise RowError("invalid_json", f"invalid JSON: {first_line(error)}") from None


def _row(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RowError("not_an_object", f"a row must be an object with named columns, got {type(value).__name__}")
    return value
