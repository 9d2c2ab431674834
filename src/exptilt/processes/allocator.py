"""Freed memory of a CPU process: the C library keeps it for the next step, or gives it back to the system.

Every step takes and frees the same gigabytes. glibc gives large blocks back to the system at once, and the system hands
them out again page by page, zeroed: a sixth of a step in bfloat16 went there. So steps keep what they free, and work whose
blocks are never alike gives it back. Peaks are the same either way.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

_TRIM, _MMAP = -1, -3
"""The names of mallopt's two thresholds: free memory at the heap's end, and blocks beside the heap."""
_KEEP = 2**31 - 1
_SOON = 4 << 20
_USUAL = 32 << 20
"""The threshold glibc itself settles on, and the largest that older versions accept."""
_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
"""Environment variables that set glibc's thresholds."""


def set_torch_defaults() -> None:
    """Set what torch reads of the environment at its first allocation; what is set already stays.

    Call it before torch and transformers are imported: some of their modules allocate.
    """
    # Huge pages where the system grants them on request. Large tensors come and go with every step, and on a CPU the faults
    # of their small pages cost more than much of what is done with them.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # oneDNN keeps the code it makes for each shape of a product, 1024 by default. Packed rows have new shapes in every
    # step, so most of that code is not used again, and a tiny model's memory grew with every step.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")


def keep_freed() -> None:
    """Let this process keep freed memory for reuse; settings in the environment win. Without glibc, nothing happens."""
    libc = _glibc()
    if libc is None or _thresholds_are_set():
        return
    libc.mallopt(_TRIM, _KEEP)
    if not libc.mallopt(_MMAP, _KEEP):
        libc.mallopt(_MMAP, _USUAL)


def give_back() -> None:
    """Give all free memory back to the system now."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


@contextmanager
def given_back() -> Iterator[None]:
    """While this context lasts, large blocks go back to the system as soon as they are free; at its end, everything free does.

    Sampling frees and takes blocks that grow a little with every token. Kept for reuse they fit nothing: a process with a
    model of 28 million weights held 2 GB afterwards instead of 0.4 GB.
    """
    libc = _glibc()
    if libc is None or _thresholds_are_set():
        yield
        return
    libc.mallopt(_MMAP, _SOON)
    try:
        yield
    finally:
        keep_freed()
        give_back()


@contextmanager
def as_usual() -> Iterator[None]:
    """Whatever is kept inside, afterwards glibc is back at what it settles on by itself; it cannot be asked what it had."""
    try:
        yield
    finally:
        libc = _glibc()
        if libc is not None and not _thresholds_are_set():
            libc.mallopt(_MMAP, _USUAL)
            libc.mallopt(_TRIM, 2 * _USUAL)
            libc.malloc_trim(0)


def _thresholds_are_set() -> bool:
    return any(name in os.environ for name in _SETTINGS)


@cache
def _glibc() -> ctypes.CDLL | None:
    """The C library, if it is glibc; else None."""
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return None
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
