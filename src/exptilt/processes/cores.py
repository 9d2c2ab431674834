"""The cores that this process may use, and how its threads wait for work. Never imports torch.

Torch starts a thread for every core of its affinity, but a container's quota is no affinity: with two cores' time on a
machine of 64, 64 threads wait for each other. And between two products its threads spin, which takes from other
programs (and from this one's other threads) the time that they need.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
_CHOSEN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Variables by which a user says how threads wait."""
_SPINS = "3000"
"""Turns of waiting before a thread sleeps: long enough for the gap between two small products, a hundredth of the library's own."""


def usable_cores() -> int:
    """How many cores this process can keep busy: those of its affinity, within its container's quota; at least 1."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([own, *map(math.ceil, quotas(_ROOT, _OWN))]))


def settle_threads() -> None:
    """Make torch's threads as many as can run, and let them sleep soon when they wait; before torch is imported.

    What a user has set in the environment stays.
    """
    if not any(name in os.environ for name in _CHOSEN):
        os.environ["GOMP_SPINCOUNT"] = _SPINS
    if any(True for _ in quotas(_ROOT, _OWN)):
        os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))


def quotas(root: Path, own: Path) -> Iterator[float]:
    """Cores' worth of time that the control groups of this process allow, of both versions; nothing where there is no limit.

    Args:
        root: where control groups are mounted.
        own: names the groups of this process, a line each.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        is_second = not controllers
        if not is_second and "cpu" not in controllers.split(","):
            continue
        group = (root if is_second else root / controllers) / path.lstrip("/")
        top = root if is_second else root / controllers
        for folder in (group, *group.parents):  # a limit of a group above holds, too
            allowed = _second(folder) if is_second else _first(folder)
            if allowed is not None:
                yield allowed
            if folder == top:
                break


def _second(folder: Path) -> float | None:
    """`cpu.max`: microseconds allowed in each period of so many, or the word max."""
    try:
        allowed, period = (folder / "cpu.max").read_text().split()
        return int(allowed) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _first(folder: Path) -> float | None:
    try:
        allowed, period = (int((folder / name).read_text()) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
        return allowed / period if allowed > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
