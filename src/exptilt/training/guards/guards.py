"""Guard rails that speak: a number, a reason, and a setting to change, before a run costs more than it is worth."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from exptilt.errors import TrainingError
from exptilt.run_folder.run_record import Caution
from exptilt.settings.training_settings import ALARMS
from exptilt.training.callbacks.callback import Callback, Progress
from exptilt.training.guards.alarms import no_gradient
from exptilt.training.guards.cautions import Facts, History, Line
from exptilt.training.guards.checks import Check, Checks
from exptilt.training.guards.cures import Danger
from exptilt.training.guards.dangers import OF_TEXTS
from exptilt.training.guards.loss_dangers import starting_loss
from exptilt.training.guards.row_dangers import contradictory, repeated
from exptilt.training.sums import Sums

logger = logging.getLogger(__name__)

_AGAIN = 2.0
"""A caution is given again when its number has grown by this factor: often enough to be heard, too seldom to annoy."""
_WINDOWS = 20
"""Training is judged at least this many times a run, however short: early training counts."""


@dataclass
class Guards(Callback):
    """Looks at every step and every held-out line, and warns; ends a run only where the recipe asks for it.

    Every process has one, and they decide alike; `speaks` in the first alone.
    """

    facts: Facts
    record: Callable[[Caution], None]
    """Gets each warning once, to keep; the log of this module gets it too."""
    stop_on: Sequence[str] = ()
    """Names of dangers that end the run (`train.stop_if`); "alarm" is every alarm."""
    every: int = 1
    """Most steps that are judged together."""
    speaks: bool = True
    checks: Checks = OF_TEXTS
    """The dangers that metrics can show."""
    history: History = field(default_factory=History)
    window: Sums = field(default_factory=Sums)
    """Of training steps that are not judged yet."""
    spoken: dict[str, float] = field(default_factory=dict)
    """The number of the latest caution of each name."""
    advised: dict[str, str] = field(default_factory=dict)
    """Directions that were advised, by key of the recipe."""

    def after_step(self, progress: Progress, sums: Sums) -> None:
        """Judge training; the first step's rows were scored by the weights the run starts from."""
        values = sums.means("train/")
        loss = values.get("train/loss", 0.0)
        if progress.step == 1:
            self._begin(progress, values)
        history, is_still = self.history, values.get("train/grad_norm") == 0
        history.still_steps = history.still_steps + 1 if is_still else 0
        self._speak(no_gradient(progress.step, progress.is_last, history, self.facts, loss))
        for name, (total, weight) in sums.totals.items():
            self.window.add(name, total, weight)
        if progress.step % self._window(progress) == 0 or progress.is_last:
            history.add(_line(progress, self.window.means("train/")), held_out=False)
            self.window = Sums()
            self._judge(self.checks.training)

    def on_metrics(self, progress: Progress, values: Mapping[str, float]) -> None:
        """Judge a line of held-out metrics by all lines so far."""
        if any(name.startswith("eval/") for name in values):
            line = dataclasses.replace(_line(progress, dict(values)), train_loss=self.history.train_loss())
            self.history.add(line, held_out=True)
            self._judge(self.checks.held_out)

    def _begin(self, progress: Progress, values: dict[str, float]) -> None:
        self.history.start = _line(progress, values)
        if not self.history.held_out and "train/loss" in values:
            self._speak(starting_loss(values["train/loss"], self.facts))
        self._speak(contradictory(progress.step, self.facts))
        self._speak(repeated(progress.step, progress.num_steps / progress.steps_per_epoch, self.facts))

    def _window(self, progress: Progress) -> int:
        return max(1, min(self.every, progress.num_steps // _WINDOWS))

    def _judge(self, checks: Sequence[Check]) -> None:
        for check in checks:
            self._speak(check(self.history, self.facts))

    def _speak(self, danger: Danger | None) -> None:
        if danger is None or not self._is_news(danger):
            return
        self.spoken[danger.name] = danger.value
        caution, cure = danger.caution(self.facts, self.advised)
        self.advised[cure.key] = cure.direction
        if self.speaks:
            word = "alarm: " if danger.alarm else ""
            logger.warning("%sstep %s: %s; %s", word, danger.step, danger.message, caution.advice)
            self.record(caution)
        if danger.name in self.stop_on or (danger.alarm and "alarm" in self.stop_on):
            named = danger.name if danger.name in self.stop_on else "alarm"
            raise TrainingError(f"step {danger.step}: {danger.message}; train.stop_if has {named!r}; {caution.advice}")

    def _is_news(self, danger: Danger) -> bool:
        """Whether a danger is new, or its number is beyond the limit and has doubled since it was reported.

        After an alarm, only alarms are reported again.
        """
        last = self.spoken.get(danger.name)
        if last is None:
            return True
        is_worse = abs(danger.value) > abs(danger.limit) and abs(danger.value) >= _AGAIN * abs(last)
        return is_worse and (danger.alarm or not any(name in self.spoken for name in ALARMS))

    def state(self) -> dict[str, Any]:
        """The lines so far, and the warnings that were given."""
        return {
            "history": dataclasses.asdict(self.history),
            "window": {name: list(entry) for name, entry in self.window.totals.items()},
            "spoken": dict(self.spoken),
            "advised": dict(self.advised),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state."""
        kept = state["history"]
        lines = {name: [Line(**line) for line in kept[name]] for name in ("training", "held_out")}
        start = None if kept["start"] is None else Line(**kept["start"])
        self.history = History(**lines, start=start, still_steps=kept["still_steps"])
        self.window = Sums(state["window"])
        self.spoken, self.advised = dict(state["spoken"]), dict(state["advised"])


def _line(progress: Progress, values: dict[str, float]) -> Line:
    return Line(progress.step, progress.step / max(1, progress.num_steps), values, progress.epoch)
