"""The one door to the disk: files and folders that are whole or absent, and what a disk's refusal means.

Whatever is written here is written under another name beside its place, flushed, and renamed as the last act: a reader
never sees half a file, and where the disk refuses, what was there before stays whole.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from exptilt.errors import DiskError, ExptiltError

_WHOLE = 64 << 20
"""Files up to this many bytes are digested whole; of larger ones as many bytes in blocks, evenly spread."""
_BLOCK = 1 << 20
_FULL = 1 << 20
"""A disk with fewer free bytes is taken to be full where a library does not say why it could not write."""
_ADVICE = {
    errno.ENOSPC: "free some space, or write elsewhere",
    errno.EDQUOT: "your quota is used up: free some space, or write elsewhere",
    errno.EFBIG: "the file system or a limit of the process takes no file of this size",
    errno.EROFS: "write elsewhere",
    errno.EACCES: "change the permissions, or name another place",
    errno.EPERM: "change the permissions, or name another place",
    errno.EIO: "the device or its connection fails",
    errno.ESTALE: "the network file system lost the file; mount it again",
    errno.ENAMETOOLONG: "choose shorter names",
    errno.EMFILE: "this process has too many open files; raise `ulimit -n`",
    errno.ENFILE: "the machine has too many open files",
}
"""The errors of a disk, with what to do about them; others are named by the system's words alone."""
_NUMBER = re.compile(r"(?:os error |\[?errno:? )(\d+)", re.IGNORECASE)
_MUTE = re.compile(r"PytorchStreamWriter failed|unexpected pos \d+ vs|\d+ requested and \d+ written")
"""Errors of torch and numpy that say no more than that a write failed."""


def write_whole(path: Path, content: str | bytes) -> None:
    """Replace a file in one act; a link is followed, and a write-protected file is left alone.

    Raises:
        DiskError: the disk refuses; what was there before stays.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_whole(Path(folder) / "a.txt", "one line")
        ...     (Path(folder) / "a.txt").read_text(), len(list(Path(folder).iterdir()))
        ('one line', 1)
    """
    with writing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace a JSON-lines file in one act, row by row, so that they need not be in memory together.

    Raises:
        DiskError: the disk refuses; what was there before stays.
    """
    with writing(path) as file:
        file.writelines(_line(row) for row in rows)


def require_free(path: Path) -> None:
    """Refuse, before any work, a file that could not be written afterwards, or that would replace one.

    Raises:
        DiskError: something is there, or its folder is not.
    """
    if path.exists():
        raise DiskError(f"{path}: is there already and is not replaced; name another output")
    folder = path.absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise DiskError(
            f"{path}: cannot be written there; its folder {'may not be written' if folder.is_dir() else 'is missing'}"
        )


def _line(row: Mapping[str, Any]) -> bytes:
    try:
        return (json.dumps(row, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:  # half a character, which JSON can escape and UTF-8 cannot hold
        return (json.dumps(row) + "\n").encode()


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file to write into, which takes its name when the block ends; after an error it is gone.

    Raises:
        DiskError: the disk refuses; what was there before stays.
    """
    with refusals(path):
        target = _target(path)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        flush(target.parent)


def append(path: Path, text: str) -> None:
    """Add text to the end of a file.

    Raises:
        DiskError: the disk refuses; part of the text may be there.
    """
    with refusals(path), path.open("a", encoding="utf-8") as file:
        file.write(text)


def write_folder(target: Path, fill: Callable[[Path], Any], spare: Callable[[str], bool] | None = None) -> None:
    """Fill a new folder beside `target` and give it that name in one act; a folder of that name is replaced.

    Args:
        target: the folder.
        fill: writes everything into the path it is called with.
        spare: called with names in an earlier folder that the new one lacks; those it says yes to move along. By default
            all of them: nobody here knows whose they are.

    Raises:
        DiskError: the disk refuses; what was there before stays.
    """
    with refusals(target):
        target = Path(os.path.realpath(target))
        target.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{target.name}.exptilt-"
        staging = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
        try:
            fill(staging)
            staging.chmod(0o755)
            _flush_files(staging)
            _swap(staging, target, spare or (lambda _name: True))
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        for abandoned in target.parent.glob(f"{prefix}*"):  # by a process killed in the middle
            shutil.rmtree(abandoned, ignore_errors=True)
        flush(target.parent)


def _swap(staging: Path, target: Path, spare: Callable[[str], bool]) -> None:
    """Give `staging` the name of `target`; what was there moves aside first and goes last."""
    if not target.exists():
        staging.rename(target)
        return
    old = staging.with_name(staging.name + ".old")
    for path in sorted(target.iterdir()):
        if not (staging / path.name).exists() and spare(path.name):
            _copy(path, staging / path.name)
    target.rename(old)
    try:
        staging.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copy2(source, target, follow_symlinks=False)


def _target(path: Path) -> Path:
    """Where a path leads, if a file may be replaced there."""
    target = Path(os.path.realpath(path))
    with suppress(FileNotFoundError):
        mode = target.stat().st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise DiskError(f"{path}: is no regular file and cannot be replaced; name another file")
        if not mode & 0o222:
            raise DiskError(f"{path}: is write-protected and would be replaced; change its permissions or its name")
    return target


@contextmanager
def refusals(path: Path, act: str = "written") -> Iterator[None]:
    """Turn a disk's refusal, whichever library met it, into one line for a person.

    Raises:
        DiskError: with the path and what the system said.
    """
    try:
        yield
    except ExptiltError:
        raise
    except Exception as error:
        if not isinstance(error, OSError) and errno_of(error, path) is None:
            raise
        raise DiskError(f"{path}: cannot be {act}: {reason(error, path)}") from error


def reason(error: BaseException, path: Path | None = None) -> str:
    """What a disk's refusal means, in the words of the system, and what to do about it.

    Example:
        >>> reason(OSError(28, "No space left on device"))
        'No space left on device; free some space, or write elsewhere'
        >>> reason(RuntimeError("I/O error: No space left on device (os error 28)"))
        'No space left on device; free some space, or write elsewhere'
    """
    number = errno_of(error, path)
    if number is None:
        return " ".join(str(error).split()) or type(error).__name__
    return "; ".join(part for part in (os.strerror(number), _ADVICE.get(number)) if part)


def errno_of(error: BaseException, path: Path | None = None) -> int | None:
    """The system's number of an error, also where a library has wrapped it; None where it is no error of a disk.

    Args:
        error: from Python, safetensors, torch or numpy.
        path: what was being written; asked for its free space where a library says no more than that a write failed.
    """
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError) and link.errno is not None:
            return link.errno
        written = _NUMBER.search(str(link))
        if written:
            return int(written.group(1))
        link = link.__cause__
    if _MUTE.search(str(error)):
        is_full = path is not None and (free_space(path) or _FULL) < _FULL
        return errno.ENOSPC if is_full else errno.EIO
    return None


def is_refusal(error: BaseException) -> bool:
    """Whether an error that nobody expected is a disk's refusal and no fault of the program."""
    return errno_of(error) in _ADVICE


def cache_folder(name: str) -> Path:
    """A folder of what can be made again: under `EXPTILT_CACHE` if that variable is set, else under `~/.cache/exptilt`."""
    return Path(os.environ.get("EXPTILT_CACHE") or Path.home() / ".cache" / "exptilt") / name


def free_space(path: Path) -> int | None:
    """Free bytes of the file system a path lies in or would lie in; None where it does not say."""
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None


def require_space(path: Path, size: float, purpose: str) -> None:
    """Refuse work that the disk has no room for.

    Args:
        path: where it will be written.
        size: bytes.
        purpose: what it is, for the message.

    Raises:
        DiskError: there is less free space.
    """
    free = free_space(path)
    if free is not None and free < size:
        raise DiskError(
            f"{path}: {purpose} take {in_units(size)} and the disk has {in_units(free)} left; free some space, or write "
            "elsewhere"
        )


def in_units(size: float) -> str:
    """Bytes for a person.

    Example:
        >>> in_units(2_500_000), in_units(3.2e12)
        ('2.5 MB', '3.2 TB')
    """
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def describe(path: Path) -> dict[str, Any]:
    """Size and digest of a file; of a large one the digest is of blocks, so that a bit that flips between them is missed."""
    size = path.stat().st_size
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "blake2b") if size <= _WHOLE else _sampled(file, size)
    return {"bytes": size, "blake2b": digest.hexdigest()}


def _sampled(file: BinaryIO, size: int) -> Any:
    digest = hashlib.blake2b()
    count = _WHOLE // _BLOCK
    for number in range(count):
        file.seek((size - _BLOCK) * number // (count - 1))
        digest.update(file.read(_BLOCK))
    return digest


def has_size(path: Path, size: int) -> bool:
    """Whether a file is there, with so many bytes."""
    return path.exists() and path.stat().st_size == size


def write(path: Path, content: bytes) -> None:
    """Write a file of a folder that has not taken its name yet, and wait until it is on disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush_files(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def flush(folder: Path) -> None:
    """Wait until the names in a folder are on disk; some file systems cannot, and then nothing is waited for."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
