"""A benchmark's process that takes its steps when it is told to, over a pipe, and says what each cost.

It gets a line `go` and answers with a line of JSON; between steps it holds still, so that several programs take turns on
one machine and none is measured beside another.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn


class Turns:
    """This process's side of the pipe."""

    def __init__(self, setting: dict[str, Any]) -> None:
        # What libraries print must not reach the pipe.
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._cuda = setting["device"] == "cuda"
        self._imported = self._loaded = 0
        self._began = 0.0
        self.loss: float | None = None

    def imported(self) -> None:
        """Call with every library imported and nothing loaded."""
        self._imported = resident_bytes()

    def loaded(self) -> None:
        """Call with the model in memory: peaks count from here."""
        self._loaded = resident_bytes()
        forget_peak()
        if self._cuda:
            import torch

            torch.cuda.reset_peak_memory_stats()

    def wait(self) -> None:
        """Until it is this process's turn, or the end of it."""
        line = sys.stdin.readline()
        if line.strip() != "go":
            self._out.flush()
            os._exit(0)  # in the middle of a trainer's loop
        self._began = self._clock()

    def done(self) -> None:
        """A step is over: say what it cost."""
        seconds = self._clock() - self._began
        self._say(seconds=seconds, loss=self.loss, **self._memory())

    def ready(self, **facts: Any) -> None:
        """Everything before step 1 is done."""
        self._say(ready=True, **facts)

    def serve(self, step: Callable[[], Any]) -> NoReturn:
        """Take steps until told to end."""
        self.ready()
        while True:
            self.wait()
            step()
            self.done()

    def _clock(self) -> float:
        if self._cuda:
            import torch

            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    def _memory(self) -> dict[str, float]:
        if self._cuda:
            import torch

            peak = torch.cuda.max_memory_allocated()
            return {"peak_mb": peak / 1e6, "above_model_mb": peak / 1e6}
        peak = peak_bytes()
        return {"peak_mb": (peak - self._imported) / 1e6, "above_model_mb": (peak - self._loaded) / 1e6}

    def _say(self, **answer: Any) -> None:
        print(json.dumps(answer), file=self._out, flush=True)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def resident_bytes() -> int:
    if Path("/proc/self/status").exists():
        return _status("VmRSS")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def peak_bytes() -> int:
    return _status("VmHWM") if Path("/proc/self/status").exists() else resident_bytes()


def forget_peak() -> None:
    """Linux: from now on the peak is that of what follows."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return
