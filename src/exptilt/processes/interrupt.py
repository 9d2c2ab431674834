"""Interruptions of a run: SIGINT and SIGTERM ask the loop to stop after the step; a process that died ends all others."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import torch
import torch.distributed as dist

from exptilt.errors import TrainingError
from exptilt.processes.world import World
from exptilt.wording import in_one_line

_BROKEN = ("gloo", "nccl", "connection", "socket", "timed out", "process group")
"""Words in torch's errors about a broken exchange; many of these errors are plain RuntimeErrors."""


@dataclass
class StopRequest:
    """A request to stop the run, with the signal that made it."""

    signal_name: str | None = None

    def __bool__(self) -> bool:
        return self.signal_name is not None


class Terminated(SystemExit):
    """SIGTERM arrived outside the loop; the process ends with the status that shells give for it, 143."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)

    def __str__(self) -> str:
        return "SIGTERM arrived"


@contextmanager
def ending_in_order() -> Iterator[None]:
    """Let SIGTERM raise `Terminated` instead of ending the process on the spot, so that the end of a run is recorded.

    `graceful_stop` takes its place while the loop runs. Outside the main thread signals are left alone.
    """
    before = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or before is not signal.SIG_DFL:
        yield
        return

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def graceful_stop() -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM into a request; a second SIGINT interrupts at once, as usual.

    Outside the main thread, where signals cannot be handled, the request stays empty.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield request
        return

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if request and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.signal_name = signal.Signals(number).name

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def losing_no_process(world: World) -> Iterator[None]:
    """Turn torch's error about a broken exchange between processes into a message for a person.

    A process that was killed is noticed at the next exchange; a machine that vanished, after the timeout of the group.

    Raises:
        TrainingError: another process is gone.
    """
    try:
        yield
    except RuntimeError as error:
        if world.size == 1 or isinstance(error, torch.OutOfMemoryError) or not _is_broken(error):
            raise
        raise TrainingError(
            f"process {world.rank} of {world.size} lost touch with the others: one of them has ended or hangs, and its own "
            "message says why. Checkpoints written so far are intact; the same command goes on from the newest "
            f"({in_one_line(error)})"
        ) from error


def _is_broken(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or any(word in str(error).lower() for word in _BROKEN)
