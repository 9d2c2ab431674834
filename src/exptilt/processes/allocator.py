"""What the C library does with memory that torch frees on a CPU: keep it for the next step, or give it back.

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
"""What glibc's mallopt calls its two thresholds: of free memory at the heap's end, and of blocks beside the heap."""
_KEEP = 2**31 - 1
_SOON = 4 << 20
_USUAL = 32 << 20
"""What glibc itself settles on, and the most that older versions take."""
_CHOSEN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
"""Variables by which somebody tells glibc what to do."""


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
    """From now on this process keeps memory for reuse; what the environment says of that stays. Without glibc nothing."""
    libc = _glibc()
    if libc is None or _told():
        return
    libc.mallopt(_TRIM, _KEEP)
    if not libc.mallopt(_MMAP, _KEEP):
        libc.mallopt(_MMAP, _USUAL)


def give_back() -> None:
    """Return what is free now."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


@contextmanager
def given_back() -> Iterator[None]:
    """Inside, large blocks go back to the system as soon as they are free; at the end, all that is still kept.

    Sampling frees and takes blocks that grow a little with every token. Kept for reuse they fit nothing: a process with a
    model of 28 million weights held 2 GB afterwards instead of 0.4 GB.
    """
    libc = _glibc()
    if libc is None or _told():
        yield
        return
    libc.mallopt(_MMAP, _SOON)
    try:
        yield
    finally:
        keep_freed()
        give_back()


def _told() -> bool:
    return any(name in os.environ for name in _CHOSEN)


@cache
def _glibc() -> ctypes.CDLL | None:
    """Linux's usual C library; None where there is another."""
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return None
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
