"""Calls with a bound of time: worker processes that are ended when they take too long.

A signal cannot end a call in a thread, and a thread cannot be ended at all; a process can. Workers are plain programs
that read and write lines, so a script of yours needs no `if __name__ == "__main__"`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import exptilt
from exptilt.errors import ConfigError
from exptilt.wording import in_one_line

_START = 120.0
"""Seconds in which a worker must have loaded its libraries, on a machine that does much else."""


class WorkerProcess:
    """One process that replies to lines of JSON; used by one thread at a time.

    Args:
        command: module and arguments of the program.
        start: seconds in which it must be ready.
        is_heard: whether what it says beside its replies is shown; else only its last line, where it does not start.

    Raises:
        ConfigError: it does not start.
    """

    def __init__(self, command: Sequence[str], *, start: float = _START, is_heard: bool = False) -> None:
        # The program's own copy of the package, also where it is not the one that is installed.
        paths = [str(Path(exptilt.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if is_heard else subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        self._reader: threading.Thread | None = None
        ready = self._line(start)
        if ready is None:
            said = (self._process.stderr.read() if self._process.stderr else "").strip().splitlines()
            self.end()
            raise ConfigError(
                f"a worker process of a reward does not start: {in_one_line(said[-1] if said else 'no reply')}"
            )
        self.ready: Any = json.loads(ready)
        """What it said when it was ready."""
        # Nobody reads it from here on, and a full pipe would stop the process.
        self._reader = threading.Thread(target=self._drain, daemon=True)
        self._reader.start()

    def ask(self, request: Any, timeout: float) -> tuple[bool, Any]:
        """Whether the process replied in time, and its reply; after a time-out it has ended."""
        assert self._process.stdin is not None  # noqa: S101 - for mypy
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except (BrokenPipeError, OSError):
            self.end()
            return False, None
        line = self._line(timeout)
        if line is None:
            self.end()
            return False, None
        return True, json.loads(line)

    def _line(self, timeout: float) -> str | None:
        alarm = threading.Timer(timeout, self._process.kill)
        alarm.start()
        try:
            line = self._process.stdout.readline() if self._process.stdout else ""
        finally:
            alarm.cancel()
        return line if line.endswith("\n") else None

    def _drain(self) -> None:
        while self._process.stderr is not None and self._process.stderr.read(1 << 16):
            pass

    @property
    def is_alive(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    def end(self) -> None:
        """End the process and wait for it."""
        self._process.kill()
        self._process.wait()
        if self._reader is not None:
            self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            with suppress(OSError):  # what was being written has no reader
                if pipe is not None:
                    pipe.close()


class BoundedCalls:
    """Sends requests to worker processes, each with a bound of time.

    Args:
        command: module and arguments of a worker, which replies to each line of JSON with one.
        timeout: seconds for one request, > 0.
        workers: processes at most, >= 1.

    Example:
        >>> with BoundedCalls(["exptilt.rewards.check_worker", "exact", "{}"], timeout=60, workers=1) as calls:
        ...     calls([["yes", "yes"], ["no", "yes"]])
        [True, False]
    """

    def __init__(self, command: Sequence[str], *, timeout: float, workers: int) -> None:
        self._command, self._timeout, self._count = list(command), timeout, workers
        self._idle: list[WorkerProcess] = []
        self.num_timeouts = 0
        """Requests so far that took too long."""
        self._finalizer = weakref.finalize(self, _end_all, self._idle)

    def __call__(self, requests: Sequence[Any]) -> list[Any]:
        """Replies in the order of the requests; None where a request took too long.

        Raises:
            ConfigError: a worker does not start.
        """
        replies: list[Any] = [None] * len(requests)
        todo, lock = iter(range(len(requests))), threading.Lock()

        def upcoming() -> Iterator[int]:
            while True:
                with lock:
                    number = next(todo, None)
                if number is None:
                    return
                yield number

        def work() -> None:
            worker: WorkerProcess | None = None
            for number in upcoming():
                if worker is None or not worker.is_alive:
                    worker = self._idle.pop() if self._idle else WorkerProcess(self._command)
                in_time, replies[number] = worker.ask(requests[number], self._timeout)
                self.num_timeouts += not in_time
            if worker is not None and worker.is_alive:
                self._idle.append(worker)

        threads = min(self._count, len(requests))
        if threads:
            with ThreadPoolExecutor(threads) as pool:
                for done in [pool.submit(work) for _ in range(threads)]:
                    done.result()
        return replies

    def __enter__(self) -> BoundedCalls:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes; the next call starts new ones."""
        _end_all(self._idle)


def _end_all(workers: list[WorkerProcess]) -> None:
    while workers:
        workers.pop().end()
