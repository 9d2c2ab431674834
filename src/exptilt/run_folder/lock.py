"""One process at a time in a run folder: a lock that the system takes back when its holder ends, however it ends.

The lock lies on `.exptilt-lock`, which holds the holder's host, process id and start. A process must never open that file
while it holds the lock: the lock belongs to the process, and closing any descriptor of the file gives it back.
"""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from exptilt.disk import reason, refusals
from exptilt.errors import CheckpointError
from exptilt.run_folder.ownership import LOCK_FILE, OWNER_FILE, Kind, require_apart, require_no_file, require_ours, sign

_BUSY = (errno.EACCES, errno.EAGAIN)
_held: set[str] = set()
"""Folders this process works in."""


@contextmanager
def claimed(
    folder: Path, kind: Kind, inputs: Mapping[str, str] | None = None, *, key: str = "output", shared: bool = False
) -> Iterator[str | None]:
    """Make a folder ours for as long as the block runs, or refuse and leave everything as it is.

    Args:
        folder: made if it is absent.
        kind: what it is the folder of.
        inputs: paths it must lie apart from, by what names them; see `require_apart`. None: the folder is an input itself.
        key: what names the folder, for messages.
        shared: only add files, beside others that do the same; a process that trains there keeps all out.

    Yields:
        What a person should know: None, or that this file system has no locks.

    Raises:
        CheckpointError: the folder is somebody else's, overlaps with what the user needs, or another process is in it.
        DiskError: it cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as home, claimed(Path(home) / "run", "run"):
        ...     json.loads((Path(home) / "run" / ".exptilt-owner.json").read_text())["kind"]
        'run'
    """
    require_no_file(folder, key)
    if inputs is not None:
        require_apart(folder, inputs, key)
    require_ours(folder, kind, key)
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"{folder}: the {kind} folder cannot be written ({reason(error)}); set another {key}"
        ) from error
    name = os.path.realpath(folder)
    if name in _held:
        raise CheckpointError(f"{folder}: this process already works in it; wait for that, or set another {key}")
    with refusals(folder / LOCK_FILE):
        descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        caution = _lock(descriptor, folder, key, shared)
        _held.add(name)
        sign(folder, kind)
        if not shared:
            _write_holder(descriptor, folder)
        yield caution
    except BaseException:
        if is_new and name in _held:
            _leave_nothing(folder)
        raise
    finally:
        _held.discard(name)
        os.close(descriptor)  # gives the lock back; the file stays


def _leave_nothing(folder: Path) -> None:
    """Remove a folder that was made for work that failed before it wrote anything there."""
    with suppress(OSError):
        if {path.name for path in folder.iterdir()} <= {LOCK_FILE, OWNER_FILE}:
            for name in (OWNER_FILE, LOCK_FILE):
                (folder / name).unlink(missing_ok=True)
            folder.rmdir()


def _lock(descriptor: int, folder: Path, key: str, shared: bool) -> str | None:
    try:
        import fcntl

        fcntl.lockf(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except ImportError:
        return _unlocked(folder, "this system has no such locks")
    except OSError as error:
        if error.errno in _BUSY:
            raise CheckpointError(f"{folder}: {_holder(folder)}; wait for it, stop it, or set another {key}") from None
        return _unlocked(folder, reason(error))
    return None


def _holder(folder: Path) -> str:
    """Read only by a process that does not hold the lock."""
    try:
        holder = json.loads((folder / LOCK_FILE).read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']} works in it since {holder['started']}"
    except (OSError, ValueError, KeyError, TypeError):  # it is just being written, or only measures
        return "another process of exptilt works in it"


def _unlocked(folder: Path, why: str) -> str:
    return f"{folder}: its file system cannot lock files ({why}), so nothing keeps a second process out of this folder"


def _write_holder(descriptor: int, folder: Path) -> None:
    started = datetime.now(UTC).isoformat(timespec="seconds")
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "started": started}
    with refusals(folder / LOCK_FILE):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, (json.dumps(holder) + "\n").encode(), 0)
        os.fsync(descriptor)
