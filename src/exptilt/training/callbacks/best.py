"""Keeping the best weights by a held-out metric, and an early end when it stops improving."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from exptilt.errors import TrainingError
from exptilt.run_folder.run_record import KeptWeights
from exptilt.training.callbacks.callback import Callback, Progress


@dataclass
class Best(Callback):
    """Keeps the weights whenever a held-out metric improves, and ends the run after too long without improvement.

    The starting weights count as a candidate: a run that never improves on them keeps them.
    """

    which: Literal["min", "max"]
    name: str
    """A held-out metric, `eval/loss` for one."""
    keep: Callable[[], None]
    """Saves the weights as they are now; called in every process."""
    patience: int = 0
    """Evaluations in a row without a better value that end the run; 0 never does."""
    value: float | None = None
    """The best so far."""
    step: int | None = None
    """And at which step it was."""
    waited: int = 0
    """Evaluations since."""

    def on_metrics(self, progress: Progress, values: Mapping[str, float]) -> None:
        """Compare the metric with the best value, and keep the weights or count the miss."""
        if not any(name.startswith("eval/") for name in values):
            return
        if self.name not in values:
            measured = ", ".join(name for name in values if name.startswith("eval/"))
            raise TrainingError(f"train.best: {self.name!r} is not measured on held-out rows; measured are {measured}")
        value = values[self.name]
        if self._is_better(value):
            self.value, self.step, self.waited = value, progress.step, 0
            self.keep()
            return
        self.waited += 1
        if self.patience and self.waited >= self.patience and not progress.is_last:
            progress.num_steps = progress.step

    def _is_better(self, value: float) -> bool:
        if self.value is None:
            return not math.isnan(value)
        return value < self.value if self.which == "min" else value > self.value

    def kept(self) -> KeptWeights:
        """The step of the weights, with its metric.

        Raises:
            TrainingError: none were ever kept.
        """
        if self.step is None or self.value is None:
            raise TrainingError(
                f"train.best: {self.name} was never a number, so no weights were kept; choose another metric"
            )
        return KeptWeights(step=self.step, metric=self.name, value=self.value)

    def state(self) -> dict[str, Any]:
        """The best value and the number of evaluations since."""
        return {"value": self.value, "step": self.step, "waited": self.waited}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved best value."""
        self.value, self.step, self.waited = state["value"], state["step"], state["waited"]


def best_in_words(best: KeptWeights, last: int) -> str:
    """One line that names the step whose weights are the model.

    Example:
        >>> best_in_words(KeptWeights(step=20, metric="eval/loss", value=0.61), 60)
        'train.best: the model has the weights of step 20 of 60, where eval/loss was 0.61'
    """
    if best.step:
        return f"train.best: the model has the weights of step {best.step} of {last}, where {best.metric} was {best.value:.4g}"
    return (
        f"warning: train.best kept step 0: no step of {last} was better than the untrained start ({best.metric} "
        f"{best.value:.4g}), so the model is the one the run started from; lower optim.learning_rate"
    )
