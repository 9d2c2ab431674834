"""One function over many items in several processes: results in the order of the items, a few of them under way at a time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

from exptilt.errors import DataError
from exptilt.processes.cores import usable_cores

A = TypeVar("A")
B = TypeVar("B")
_WAITING = 2
"""Items more than there are processes that are under way, so that no process waits for work."""
_SWITCH = "TOKENIZERS_PARALLELISM"
_work: Callable[[Any], Any] | None = None
"""In a worker, what it does."""


def num_workers(asked: int | None) -> int:
    """The number of processes to use: those asked for, else one for every core that this process may use.

    It is 1 where the system cannot fork: a started process would import the caller's script again.
    """
    if "fork" not in multiprocessing.get_all_start_methods() or not hasattr(os, "sched_getaffinity"):
        return 1
    return usable_cores() if asked is None else asked


def mapped(work: Callable[[A], B], items: Iterable[A], workers: int) -> Iterator[tuple[A, B]]:
    """Every item with what `work` makes of it, in order.

    Workers are forked, so `work` itself is inherited; items and results are pickled. A worker ends with this process,
    however it ends.

    Args:
        work: what is done with an item; it must not use torch or a GPU in a forked process.
        items: taken one by one, as workers become free.
        workers: number of processes; 1 does the work in this one.

    Raises:
        DataError: a worker was killed.
    """
    if workers == 1:
        yield from ((item, work(item)) for item in items)
        return
    under_way: deque[tuple[A, Future[B]]] = deque()
    remaining = iter(items)
    with _pool(work, workers) as pool:
        try:
            for item in remaining:
                under_way.append((item, pool.submit(_do, item)))
                if len(under_way) >= workers + _WAITING:
                    first, future = under_way.popleft()
                    yield first, future.result()
            while under_way:
                first, future = under_way.popleft()
                yield first, future.result()
        except BrokenProcessPool:
            raise DataError(
                f"one of {workers} processes that prepare rows was killed, perhaps for want of memory; "
                "set data.workers to fewer of them (1 starts none)"
            ) from None


@contextmanager
def _pool(work: Callable[[Any], Any], workers: int) -> Iterator[ProcessPoolExecutor]:
    before = os.environ.get(_SWITCH)
    os.environ[_SWITCH] = "false"  # each process has a core; and the library would complain of a fork
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(work, os.getpid()))
    try:
        with warnings.catch_warnings():
            # Later versions of Python warn of a fork beside threads; workers use none of what those threads hold.
            warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)
            yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        if before is None:
            del os.environ[_SWITCH]
        else:
            os.environ[_SWITCH] = before


def _start(work: Callable[[Any], Any], parent: int) -> None:
    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process soon after its parent, which may be killed without a chance to say so."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _do(item: Any) -> Any:
    assert _work is not None  # noqa: S101 - set by `_start`
    return _work(item)
