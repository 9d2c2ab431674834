"""Callbacks: small objects with state of their own, called around the steps in the order they are listed.

Write your own by subclassing `Callback` and overriding the hooks you need; docs/callbacks.md shows how.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from exptilt.training.sums import Sums


@dataclass
class Progress:
    """The position of a run: steps done, and steps in all."""

    step: int
    """Optimizer steps done."""
    num_steps: int
    """Steps until the end; a callback that lowers it to `step` ends the run here, as if it had been planned so."""
    steps_per_epoch: int

    @property
    def epoch(self) -> float:
        """Number of passes over the data so far."""
        return self.step / self.steps_per_epoch

    @property
    def is_last(self) -> bool:
        """Tell whether all steps are done."""
        return self.step >= self.num_steps


class Callback:
    """Hooks of a run; each does nothing unless overridden.

    In a run of several processes every process calls the hooks of its own callbacks, with equal numbers.

    Example:
        >>> class StopEarly(Callback):
        ...     def after_step(self, progress, sums):
        ...         if progress.step == 10:
        ...             progress.num_steps = 10
        >>> progress = Progress(step=10, num_steps=100, steps_per_epoch=50)
        >>> StopEarly().after_step(progress, Sums())
        >>> progress.is_last
        True
    """

    def on_start(self, progress: Progress) -> None:
        """Called before the first step of this process, also after a resume; `restore` comes first."""

    def after_step(self, progress: Progress, sums: Sums) -> None:
        """Called after every optimizer step, before a checkpoint, with the sums of its metrics over all processes."""

    def on_metrics(self, progress: Progress, values: Mapping[str, float]) -> None:
        """Called for every line of metrics.jsonl, with its values, e.g. `{"train/loss": 0.69, ...}`."""

    def on_checkpoint(self, progress: Progress) -> None:
        """Called when a checkpoint of this step has been written, or with `train.save_async` copied to be written."""

    def on_end(self, progress: Progress) -> None:
        """Called when this process stops stepping: at the end, on a request to stop, or before an error is raised."""

    def state(self) -> dict[str, Any]:
        """The state that a checkpoint must keep for this callback; tensors, numbers, strings, lists and dicts only."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore a value that `state` returned."""
