"""Memory of a device: bytes that are free, the rise during some work, and the peak of this process."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import TracebackType

import psutil
import torch

from exptilt.processes.allocator import give_back

_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
_INTERVAL = 0.001
"""Seconds between two looks at the size of the process."""


def free_memory(device: torch.device) -> int:
    """Bytes this process can still allocate: on a GPU, or of main memory within its container's limit."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    limits = [left for paths in _CGROUPS if (left := _left(*(Path(path) for path in paths))) is not None]
    return min([int(psutil.virtual_memory().available), *limits])


def _left(limit: Path, used: Path) -> int | None:
    """Bytes a container can still allocate; None where it has no limit."""
    try:
        return max(0, int(limit.read_text()) - int(used.read_text()))
    except (OSError, ValueError):  # no such file, or the word "max"
        return None


class Rise:
    """The peak of the work inside this context, in bytes above the memory held before.

    On a GPU by torch's own account and on Linux by the kernel's, both exact, and both forget what was highest before.
    Elsewhere by looking at the process again and again, so that what is held for a moment only goes unseen. On a CPU
    what the process keeps of freed memory is given back first (with glibc; elsewhere taking it again is no rise).

    Example:
        >>> import mmap, time
        >>> with Rise(torch.device("cpu")) as rise:
        ...     held = mmap.mmap(-1, 200_000_000)
        ...     written = held.write(bytes(100_000_000))
        ...     time.sleep(0.1)
        >>> 90e6 < rise.bytes < 250e6
        True
    """

    def __init__(self, device: torch.device) -> None:
        self.bytes = 0
        self._device = device
        self._process = psutil.Process()
        self._before = 0
        self._exact = False
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Rise:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = torch.cuda.memory_allocated(self._device)
            return self
        give_back()
        self._exact = _forget_peak()
        self._before = self._process.memory_info().rss
        if not self._exact:
            self._watch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self._device) - self._before
        elif self._exact:
            self.bytes = max(0, peak_bytes() - self._before)
        else:
            self._over.set()
            self._watch.join()

    def _look(self) -> None:
        while not self._over.is_set():
            self.bytes = max(self.bytes, self._process.memory_info().rss - self._before)
            self._over.wait(_INTERVAL)


def _forget_peak() -> bool:
    """Reset the kernel's peak for this process; False where the kernel cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_memory() -> dict[str, float]:
    """The most memory this process has held, in units of 1e9 bytes: on its GPU where it uses one, else in main memory."""
    if torch.cuda.is_available():
        return {"peak_memory_gb": torch.cuda.max_memory_allocated() / 1e9}
    return {} if sys.platform == "win32" else {"peak_memory_gb": peak_bytes() / 1e9}


def peak_bytes() -> int:
    """Peak of this process's main memory in bytes, since its start or since the last reset.

    On Linux `getrusage` includes the peak of the parent process, so /proc is read instead.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    import resource  # Windows has none

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
