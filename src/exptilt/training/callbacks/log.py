"""Metrics of training and of held-out rows, written to a file and passed to listeners."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exptilt.processes.memory import peak_memory
from exptilt.processes.world import World
from exptilt.run_folder.metrics_file import MetricsFile, MetricsLine
from exptilt.training.callbacks.callback import Callback, Progress
from exptilt.training.sums import Sums
from exptilt.training.throughput import Work


@dataclass
class Log(Callback):
    """Writes every line of metrics and passes it to listeners; the first callback of a run.

    The first process writes the file, and all processes get its numbers, so that all decide alike.
    """

    path: Path
    listeners: Sequence[Callback] = ()
    """Callbacks whose `on_metrics` is called: all callbacks of the run."""
    world: World = field(default_factory=World.alone)

    def on_start(self, progress: Progress) -> None:
        """Cut lines of steps that will run again; at step 0 these are all lines."""
        if self.world.is_first:
            MetricsFile(self.path).cut_after(progress.step or -1)

    def write(self, progress: Progress, values: Mapping[str, float]) -> None:
        """Write one line and pass it on; all processes call this together."""
        values = self.world.first(dict(values))
        if self.world.is_first:
            MetricsFile(self.path).append(MetricsLine(progress.step, progress.epoch, values))
        for listener in self.listeners:
            listener.on_metrics(progress, values)


@dataclass
class LogMetrics(Callback):
    """Writes the means over all rows since the last written line, every `every` steps and at the end, and the speed.

    It comes after every callback that may end the run, so that the last line is always written.
    """

    log: Log
    every: int
    work: Work | None = None
    """Operations of a step beside those the hardware could do; None leaves their ratio out."""
    window: Sums = field(default_factory=Sums)
    steps: int = 0
    began: tuple[float, int] = (0.0, 0)
    """Time and step at which this process began."""

    def on_start(self, progress: Progress) -> None:
        """Start the clock when this process starts."""
        self.began = (time.monotonic(), progress.step)

    def after_step(self, progress: Progress, sums: Sums) -> None:
        """Add a step's sums, and write a line if it is due."""
        for name, (total, weight) in sums.totals.items():  # read each step, so a resumed window adds in the same order
            self.window.add(name, total, weight)
        self.steps += 1
        if progress.step % self.every and not progress.is_last:
            return
        self.log.write(progress, self.window.means("train/") | self._speed(progress))
        self.window, self.steps = Sums(), 0

    def _speed(self, progress: Progress) -> dict[str, float]:
        counts = {name: self.window.totals.get(name, [0.0])[0] for name in ("seconds", "tokens", "unique_tokens")}
        seconds = counts["seconds"]
        pace = (time.monotonic() - self.began[0]) / max(1, progress.step - self.began[1])
        speed = {"seconds_left": pace * (progress.num_steps - progress.step), **peak_memory()}
        if seconds > 0:
            speed |= {
                "tokens_per_second": counts["tokens"] / seconds,
                "unique_tokens_per_second": counts["unique_tokens"] / seconds,
                "seconds_per_step": seconds / self.steps,
            }
            if self.work is not None:
                speed[self.work.name] = self.work.share(counts["unique_tokens"] / seconds)
        return {f"train/{name}": value for name, value in speed.items()}

    def state(self) -> dict[str, Any]:
        """The sums that are not written yet."""
        return {"window": {name: list(entry) for name, entry in self.window.totals.items()}, "steps": self.steps}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue with saved sums."""
        self.window, self.steps = Sums(state["window"]), state["steps"]


@dataclass
class Evaluate(Callback):
    """Writes held-out sums: at the start, every `every` steps (0: never between), and at the end.

    It comes after the callbacks that listen to held-out metrics and before `LogMetrics`.
    """

    log: Log
    every: int
    measure: Callable[[], Sums]
    """Loss and metrics over all held-out rows at once."""
    samples: Callable[[Progress], Sums] | None = None
    """Completions drawn at the same moments, and what is measured on them; see `train.samples`."""

    def on_start(self, progress: Progress) -> None:
        """Measure the starting weights, once."""
        if progress.step == 0:
            self._write(progress)

    def after_step(self, progress: Progress, sums: Sums) -> None:
        """Measure if an evaluation is due."""
        if progress.is_last or (self.every and progress.step % self.every == 0):
            self._write(progress)

    def _write(self, progress: Progress) -> None:
        values = self.measure().means("eval/")
        if self.samples is not None:
            values |= self.samples(progress).means("eval/")
        self.log.write(progress, values)
