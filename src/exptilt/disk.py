"""Files that are on disk when a call returns, and known by size and digest."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, BinaryIO

_WHOLE = 64 << 20
"""Files up to this many bytes are digested whole; of larger ones as many bytes in blocks, evenly spread."""
_BLOCK = 1 << 20


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
    """Write a file and wait until it is on disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def flush(folder: Path) -> None:
    """Wait until the names in a folder are on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
