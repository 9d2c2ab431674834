"""What happens around the steps: small objects with state of their own, called in the order they are listed.

Write your own by subclassing `Callback` and overriding the hooks you need; the loop calls nothing else.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from exptilt.errors import TrainingError
from exptilt.train.metrics_file import MetricsFile
from exptilt.train.sums import Sums


@dataclass
class Progress:
    """Where a run stands."""

    step: int
    """Optimizer steps done."""
    num_steps: int
    steps_per_epoch: int

    @property
    def epoch(self) -> float:
        """Passes over the data done."""
        return self.step / self.steps_per_epoch

    @property
    def is_last(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.num_steps


class Callback:
    """Hooks of a run; each does nothing unless overridden."""

    def on_start(self, progress: Progress) -> None:
        """Before the first step of this process, also after a resume."""

    def after_step(self, progress: Progress, sums: Sums) -> None:
        """After every optimizer step, with the sums of its metrics."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint must keep for this callback; tensors, numbers, strings, lists and dicts only."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned."""


@dataclass
class LogMetrics(Callback):
    """Writes the means over all rows since the last written line, every `every` steps and at the end."""

    file: MetricsFile
    every: int
    window: Sums = field(default_factory=Sums)
    since: float = field(default_factory=time.perf_counter)
    steps: int = 0

    def on_start(self, progress: Progress) -> None:
        """Cut lines that will be written again; at step 0 that is all of them."""
        self.file.cut_after(progress.step or -1)

    def after_step(self, progress: Progress, sums: Sums) -> None:
        """Collect, and write when due."""
        self.window.merge(sums)
        self.steps += 1
        if progress.step % self.every and not progress.is_last:
            return
        seconds = time.perf_counter() - self.since
        tokens = self.window.totals.get("tokens", [0.0])[0]
        means = self.window.means("train/")
        means.pop("train/tokens", None)
        rates = {"train/tokens_per_second": tokens / seconds, "train/seconds_per_step": seconds / self.steps}
        self.file.write(progress.step, progress.epoch, means | rates)
        self.window, self.steps, self.since = Sums(), 0, time.perf_counter()

    def state(self) -> dict[str, Any]:
        """The window that is not written yet."""
        return {"window": self.window.totals, "steps": self.steps}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with the window."""
        self.window = Sums({name: list(entry) for name, entry in state["window"].items()})
        self.steps = state["steps"]


@dataclass
class Evaluate(Callback):
    """Writes held-out sums: at the start, every `every` steps (0: never between), and at the end."""

    file: MetricsFile
    every: int
    measure: Callable[[], Sums]

    def on_start(self, progress: Progress) -> None:
        """Measure the starting point, once."""
        if progress.step == 0:
            self._write(progress)

    def after_step(self, progress: Progress, sums: Sums) -> None:
        """Measure when due."""
        if progress.is_last or (self.every and progress.step % self.every == 0):
            self._write(progress)

    def _write(self, progress: Progress) -> None:
        self.file.write(progress.step, progress.epoch, self.measure().means("eval/"))


@dataclass
class GuardLoss(Callback):
    """Stops a run whose loss has left all reason, before it costs more."""

    limit: float

    def after_step(self, progress: Progress, sums: Sums) -> None:
        """Compare the step's mean loss with the limit."""
        loss = sums.means().get("loss", math.nan)
        if loss > self.limit:
            raise TrainingError(
                f"step {progress.step}: the loss is {loss:.4g}, above train.stop_if_loss_above={self.limit:g}; "
                "lower optim.learning_rate or raise loss.beta"
            )
