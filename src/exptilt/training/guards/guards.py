"""Guard rails that speak: a number, a reason, and a setting to change, before a run costs more than it is worth."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from exptilt.errors import TrainingError
from exptilt.run_folder.run_record import Caution
from exptilt.settings.training_settings import parse_condition
from exptilt.training.callbacks.callback import Callback, Progress
from exptilt.training.guards.cautions import Facts, History, Line
from exptilt.training.guards.dangers import HELD_OUT, TRAINING, starting_loss
from exptilt.training.sums import Sums

logger = logging.getLogger(__name__)

_AGAIN = 2.0
"""A caution is given again when its number has grown by this factor: often enough to be heard, too seldom to annoy."""


@dataclass
class Guards(Callback):
    """Looks at every line of metrics and warns; never changes or ends a run. Belongs to the first process alone."""

    facts: Facts
    record: Callable[[Caution], None]
    """Gets each warning once, to keep; the log of this module gets it too."""
    history: History = field(default_factory=History)
    spoken: dict[str, float] = field(default_factory=dict)
    """The number of the latest caution of each name."""

    def after_step(self, progress: Progress, sums: Sums) -> None:
        """Without held-out rows the first step's loss, which is that of the starting weights, must do."""
        loss = sums.means().get("loss")
        if progress.step == 1 and loss is not None and not self.history.held_out:
            self._speak(starting_loss(loss, self.facts))

    def on_metrics(self, progress: Progress, values: Mapping[str, float]) -> None:
        """Judge a line by all lines so far."""
        held_out = any(name.startswith("eval/") for name in values)
        line = Line(progress.step, progress.step / max(1, progress.num_steps), dict(values))
        self.history.add(line, held_out)
        for check in HELD_OUT if held_out else TRAINING:
            self._speak(check(self.history, self.facts))

    def _speak(self, caution: Caution | None) -> None:
        if caution is None:
            return
        value, last = caution.value or 0.0, self.spoken.get(caution.name)
        if last is not None and not abs(value) >= _AGAIN * abs(last):
            return
        self.spoken[caution.name] = value
        logger.warning("step %s: %s; %s", caution.step, caution.message, caution.advice)
        self.record(caution)

    def state(self) -> dict[str, Any]:
        """The lines that are judged by, and what was said."""
        return {"history": dataclasses.asdict(self.history), "spoken": dict(self.spoken)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with them."""
        lists = {name: [Line(**line) for line in lines] for name, lines in state["history"].items()}
        self.history, self.spoken = History(**lists), dict(state["spoken"])


@dataclass
class StopIf(Callback):
    """Ends the run with an error when a logged metric passes a limit the recipe sets (`train.stop_if`)."""

    conditions: Sequence[str]
    """Each "metric > number" or "metric < number"; a metric without `train/` or `eval/` in front is one of training."""
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
            elif value > limit if sign == ">" else value < limit:
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
