"""Limits that a recipe sets on logged metrics (`train.stop_if`)."""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from exptilt.errors import TrainingError
from exptilt.settings.training_settings import parse_condition
from exptilt.training.callbacks.callback import Callback, Progress

logger = logging.getLogger(__name__)

_SIGNS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    ">=": operator.ge,
    ">": operator.gt,
}


@dataclass
class StopIf(Callback):
    """Ends the run with an error when a logged metric passes a limit the recipe sets (`train.stop_if`)."""

    conditions: Sequence[str]
    """Each "metric > number" (or <, <=, >=, ==); a metric without `train/` or `eval/` in front is one of training."""
    unseen: set[str] = field(default_factory=set)
    """Held-out metrics that were asked for and are not measured; each is said once."""

    def on_metrics(self, progress: Progress, values: Mapping[str, float]) -> None:
        """Compare.

        Raises:
            TrainingError: naming step, value, condition and what to change.
        """
        held_out = any(name.startswith("eval/") for name in values)
        for condition in self.conditions:
            name, sign, limit = parse_condition(condition)
            full = name if name.startswith(("train/", "eval/")) else f"train/{name}"
            value = values.get(full)
            if value is None:
                self._miss(condition, full, values, held_out)
            elif _SIGNS[sign](value, limit):
                raise TrainingError(
                    f"step {progress.step}: {name} is {value:.4g}, and train.stop_if says {condition!r}; {_cure(full)}. "
                    "The latest checkpoint is from before"
                )

    def _miss(self, condition: str, name: str, values: Mapping[str, float], held_out: bool) -> None:
        """A condition that can never be true protects nobody."""
        if held_out != name.startswith("eval/") or condition in self.unseen:
            return
        self.unseen.add(condition)
        if name in ("eval/kl", "eval/sample_length", "eval/ended"):
            known = "set train.eval_samples, and it is"
        else:
            known = f"measured are {', '.join(sorted(values))}"
        logger.warning("train.stop_if: %r can never stop this run, %s is not measured; %s", condition, name, known)


def _cure(name: str) -> str:
    """What usually moves a metric back."""
    cures = {
        "loss": "lower optim.learning_rate, or raise loss.beta",
        "grad_norm": "lower optim.learning_rate, or lengthen optim.warmup_ratio",
        "kl": "raise loss.beta, lower optim.learning_rate, or end earlier with train.max_steps",
        "sample_length": "look at the run's samples; a loss that counts length (rdpo, simpo, ld_dpo) or a higher loss.beta",
    }
    return cures.get(name.partition("/")[2], "change the recipe, or the condition")
