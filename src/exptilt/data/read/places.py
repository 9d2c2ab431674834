"""What a source names: a file, several files, a folder saved by datasets, a pipe, or a data set of the hub."""

from __future__ import annotations

import atexit
import difflib
import glob
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import IO, Any

from exptilt.data.problems import MAX_EXAMPLES
from exptilt.data.read import hub, tables
from exptilt.data.read.files import kind_of
from exptilt.errors import DataError
from exptilt.in_memory import is_in_memory

STDIN = "-"
"""The source that is standard input."""
_ABOUT_A_SET = ("dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json")
_SPLITS = {"train": "train", "training": "train", "test": "test", "validation": "validation", "valid": "validation",
           "val": "validation", "dev": "validation", "eval": "test"}  # fmt: skip
"""Words in names of files that say which split a file belongs to."""


def place_of(source: str) -> Path | None:
    """The file or folder that holds a source; None where it is a hub id, where several files match a pattern, or in memory.

    Standard input (`-`) and other pipes are copied into a file first, once in a process.

    Raises:
        DataError: where nothing of the kind can be read.
    """
    if is_in_memory(source):
        return None
    if source == STDIN:
        return _copied(source)
    path = _path(source)
    try:
        if path.is_file() or path.is_dir():
            return path
        if path.is_fifo():
            return _copied(source)
        exists = path.exists()
    except OSError as error:
        raise DataError(f"{source[:200]}: cannot be opened: {error.strerror}") from None
    if exists:
        raise DataError(f"{source}: is neither a file nor a folder")
    if is_pattern(source) or is_on_hub(source):
        return None
    raise DataError(f"{source[:200]}: no such file or folder{_several(source) or _meant(path)}")


def is_on_hub(source: str) -> bool:
    """Whether a source is taken for a hub id: spelled like one, no path that is there, and no kind of file."""
    return (
        hub.is_id(source) and not is_in_memory(source) and not _exists(_path(source)) and kind_of(Path(source)) is None
    )


def is_pattern(source: str) -> bool:
    """Whether a source is a pattern of file names: `*`, `?` or `[...]` in it, and no path of that name is there."""
    return glob.has_magic(source) and not _exists(_path(source))


def files_of(source: str, split: str) -> list[Path]:
    """The files that hold all rows of a source, in the order of their names; none where these are no plain files.

    Raises:
        DataError: where a pattern matches nothing, or a folder does not tell which of its files are meant.
    """
    path = place_of(source)
    if path is None:
        return _matching(source) if is_pattern(source) else []
    if path.is_dir():
        return [] if tables.is_saved(path) else _shards(path, split)
    return [path]


def _path(source: str) -> Path:
    try:
        return Path(source).expanduser()
    except RuntimeError:
        return Path(source)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def _matching(source: str) -> list[Path]:
    found = sorted((Path(name) for name in glob.glob(str(_path(source)), recursive=True)), key=_in_order)
    _refuse_broken(found)
    files = [path for path in found if path.is_file()]
    if not files:
        raise DataError(f"{source}: no file has such a name")
    return files


def _shards(folder: Path, split: str) -> list[Path]:
    """The files of a folder of shards that belong to a split; all of them where no name says a split."""
    entries = [entry for entry in _inside(folder) if kind_of(entry) and entry.name not in _ABOUT_A_SET]
    _refuse_broken(entries)
    files = sorted((entry for entry in entries if entry.is_file()), key=_in_order)
    if not files:
        raise DataError(f"{folder}: holds neither files of rows nor a data set saved by datasets")
    kinds = sorted({kind_of(file) or "" for file in files})
    if len(kinds) > 1:
        raise DataError(f"{folder}: holds files of several kinds ({', '.join(kinds)}); name some: {folder}/*{kinds[0]}")
    splits = {file: _split_of(file.relative_to(folder)) for file in files}
    if not any(splits.values()):
        return files
    wanted = [file for file in files if splits[file] == _SPLITS.get(split, split)]
    if not wanted:
        has = ", ".join(sorted({each for each in splits.values() if each}))
        raise DataError(f"{folder}: has no files of split {split!r}; it has {has}")
    if None in splits.values():
        names = ", ".join([file.name for file in files if splits[file] is None][:MAX_EXAMPLES])
        raise DataError(f"{folder}: the names of some files say a split, and of others none ({names}); use a pattern")
    return wanted


def _inside(folder: Path) -> Iterator[Path]:
    """Files of a folder and of all folders in it, links to folders included; nothing that is hidden.

    Raises:
        DataError: a folder cannot be read, so that rows would be missing.
    """

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be opened: {error.strerror}") from None

    seen: set[str] = set()
    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = [name for name in folders if not name.startswith(".") and real not in seen]
        if real not in seen:
            yield from (Path(place) / name for name in names if not name.startswith("."))
        seen.add(real)


def _refuse_broken(files: Sequence[Path]) -> None:
    """Refuse links that lead nowhere, whose rows would be missing."""
    broken = next((path for path in files if path.is_symlink() and not path.exists()), None)
    if broken is not None:
        raise DataError(f"{broken}: is a link to {os.readlink(broken)}, which is not there")


def _split_of(file: Path) -> str | None:
    words = re.findall(r"[a-z]+", str(file).lower())
    return next((_SPLITS[word] for word in words if word in _SPLITS), None)


def _in_order(path: Path) -> list[Any]:
    """Names with numbers in the order of the numbers."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", str(path))]


@cache
def _copied(source: str) -> Path:
    """What comes through a pipe as a file, once in a process, as data are read more than once."""
    folder = Path(tempfile.mkdtemp(prefix="exptilt-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    name = "stdin" if source in (STDIN, "/dev/stdin") else Path(source).name
    copy = folder / name
    try:
        with ExitStack() as stack, copy.open("wb") as file:
            pipe = sys.stdin.buffer if source == STDIN else stack.enter_context(Path(source).open("rb"))
            shutil.copyfileobj(pipe, file)
        with copy.open("rb") as file:
            return copy.rename(folder / f"{name}{_kind(file)}")
    except OSError as error:
        raise DataError(f"{source}: cannot be read: {error.strerror}") from None


def _kind(file: IO[bytes]) -> str:
    """The kind of file by its first bytes; what begins with none of these marks is JSON, packed or not."""
    first = file.readline(1 << 16)
    if first.startswith(b"PAR1"):
        return ".parquet"
    if first.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return ".arrow"
    if first.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"[", b"") or first[:1] in (b"\x1f", b"\x28"):
        return ".json"
    return ".tsv" if first.count(b"\t") > first.count(b",") else ".csv"


def _several(source: str) -> str:
    """How a list is written, where several names of files stand in one, with commas or spaces between them."""
    for mark in (",", " "):
        names = [name.strip() for name in source.split(mark) if name.strip()]
        if len(names) > 1 and (mark == "," or all(kind_of(Path(name)) for name in names)):
            return f"; several sources are a list: data.train=[{', '.join(names[:3])}]"
    return ""


def _meant(path: Path) -> str:
    """`; did you mean ...?` where a file nearby has a similar name."""
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.75)
    return f"; did you mean {path.parent / near[0]}?" if near else ""
