"""Rows with ids from files. A bad row is given as a `RowError`; a bad file raises a `DataError`."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

from exptilt.data.problems import RowError
from exptilt.data.read.json_array import array_items
from exptilt.data.read.strict_json import RowDecoder
from exptilt.data.read.tables import Rows, after, read_arrow, read_parquet
from exptilt.errors import DataError
from exptilt.wording import in_one_line

_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_LFS_MAGIC = b"version https://git-lfs"
_BOM = b"\xef\xbb\xbf"
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_BLOCK = 1 << 18


def kind_of(path: Path) -> str | None:
    """The suffix that names the file type, without `.gz` and `.zst`; None for an unknown type."""
    suffix = Path(path.name.removesuffix(".gz").removesuffix(".zst")).suffix.lower()
    return suffix if suffix in _READERS else None


def read_file(path: Path) -> Rows:
    """Rows of one local file."""
    kind = kind_of(path)
    if kind is None:
        known = ", ".join(_READERS)
        raise DataError(f"{path}: unknown type of file; known are {known} (.gz and .zst allowed)")
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
    decoder = RowDecoder()
    for number, line in _lines(path):
        if line.strip():
            row_id = f"{path.name}:{number}"
            try:
                yield row_id, _row(decoder.row(_decoded(line.rstrip(b"\r\n"), "of the line")))
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
            raise DataError(f"{path}: {after(number)}{error.detail}") from None
        row_id = f"{path.name}:{number}"
        try:
            yield row_id, _row(value)
        except RowError as error:
            yield row_id, error


def _read_csv(path: Path, delimiter: str = ",") -> Rows:
    csv.field_size_limit(sys.maxsize)
    undecoded: list[RowError] = []
    reader = csv.reader(_text_lines(path, undecoded), delimiter=delimiter, strict=True)
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
    mark = next((mark for mark in (";", "\t", "|", ",") if len(header) == 1 and mark in header[0]), None)
    if mark is not None:
        raise DataError(
            f"{path}: the columns seem to be separated by {mark!r}; write the file with commas, or with tabs as .tsv"
        )
    return header


_READERS: dict[str, Callable[[Path], Rows]] = {
    ".jsonl": _read_lines,
    ".ndjson": _read_lines,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": partial(_read_csv, delimiter="\t"),
    ".parquet": read_parquet,
    ".arrow": read_arrow,
    ".feather": read_arrow,
}


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
        why = error.strerror or f"{in_one_line(error)}; fetch it again"
        raise DataError(f"{path}: cannot be read after {name.format(number)}: {why}") from None


def _open(path: Path) -> AbstractContextManager[IO[bytes]]:
    """The file, unpacked as it is read."""
    with path.open("rb") as file:
        start = file.read(len(_ZSTD_MAGIC))
    if start.startswith(_GZIP_MAGIC):
        return cast("IO[bytes]", gzip.open(path, "rb"))
    if start == _ZSTD_MAGIC:
        import pyarrow

        return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"), _BLOCK)
    return path.open("rb")


def _text_lines(path: Path, undecoded: list[RowError]) -> Iterator[str]:
    """Lines as text; for a line with invalid UTF-8, an error is appended to `undecoded` before the line is given."""
    for number, line in _lines(path):
        try:
            yield _decoded(line, f"of line {number}")
        except RowError as error:
            undecoded.append(error)
            yield line.decode("utf-8", "replace")


def _decoded(line: bytes, of: str) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8(error, of) from None


def _not_utf8(error: UnicodeDecodeError, of: str) -> RowError:
    return RowError("invalid_utf8", f"not valid UTF-8 at byte {error.start + 1} {of}")


def _row(value: Any) -> dict[str, Any]:
    if isinstance(value, RowError):
        raise value
    if not isinstance(value, dict):
        raise RowError("not_an_object", f"a row must be an object with named columns, got {type(value).__name__}")
    return value
