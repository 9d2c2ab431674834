"""Transformers' callbacks on a run of exptilt: its events, in its order, with its state and control."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from exptilt.errors import ConfigError
from exptilt.training.callbacks.callback import Callback, Progress
from exptilt.training.sums import Sums
from exptilt.trl.log_history import evaluation_logs, training_logs

logger = logging.getLogger(__name__)

_NEVER = ("on_substep_end", "on_pre_optimizer_step", "on_optimizer_step", "on_prediction_step", "on_predict")
"""Events of transformers that have no moment here."""
_WISHES = ("should_log", "should_evaluate", "should_save")


def made(callbacks: Sequence[Any]) -> list[TrainerCallback]:
    """Callbacks as objects; a class is called, as transformers does.

    Raises:
        ConfigError: one is no TrainerCallback, or waits for an event that never comes.
    """
    objects: list[Any] = [one() if inspect.isclass(one) else one for one in callbacks]
    for one in objects:
        name = type(one).__name__
        if not isinstance(one, TrainerCallback):
            raise ConfigError(f"callbacks: a {name} is no TrainerCallback of transformers")
        never = next((event for event in _NEVER if _overrides(one, event)), None)
        if never is not None:
            raise ConfigError(
                f"callbacks: {name}.{never} is never called here; on_step_end comes after every optimizer step"
            )
    return objects


def _overrides(callback: TrainerCallback, event: str) -> bool:
    """Whether a callback of somebody's own waits for an event; those of transformers do without."""
    own = getattr(type(callback), event, None)
    return own is not getattr(TrainerCallback, event, None) and not str(getattr(own, "__module__", "")).startswith(
        "transformers."
    )


@dataclass
class EventBridge(Callback):
    """Calls transformers' callbacks from the hooks of a run, and keeps the log of a trainer."""

    args: Any
    trainer_state: TrainerState
    callbacks: Sequence[TrainerCallback]
    things: Mapping[str, Any]
    """What every event gets by name: the model, the tokenizer."""
    log: Callable[[dict[str, float]], None]
    """The trainer's `log`, which a subclass may override."""
    measures: bool = False
    """Whether held-out metrics on the way are logged, as eval_strategy says."""
    from_start: bool = False
    """Whether those before step 1 are logged, as eval_on_start says."""
    control: TrainerControl = field(default_factory=TrainerControl)
    latest: dict[str, float] = field(default_factory=dict)
    """The latest held-out metrics."""
    losses: list[float] = field(default_factory=list)
    warned: set[str] = field(default_factory=set)

    def fire(self, event: str, **more: Any) -> None:
        """Call one event of all callbacks."""
        for callback in self.callbacks:
            given = getattr(callback, event)(self.args, self.trainer_state, self.control, **self.things, **more)
            self.control = given if isinstance(given, TrainerControl) else self.control
        for wish in _WISHES:
            if getattr(self.control, wish):
                setattr(self.control, wish, False)
                if wish not in self.warned:
                    self.warned.add(wish)
                    key = {"should_log": "logging_steps", "should_evaluate": "eval_steps", "should_save": "save_steps"}
                    logger.warning("a callback set control.%s, which has no effect here; set %s", wish, key[wish])

    def on_start(self, progress: Progress) -> None:
        """The begin of training, of an epoch and of a step."""
        self._follow(progress)
        self.control.should_training_stop = False
        self.fire("on_train_begin")
        if not progress.is_last:
            self.fire("on_epoch_begin")
            self.fire("on_step_begin")

    def after_step(self, progress: Progress, sums: Sums) -> None:
        """The end of a step, perhaps of an epoch and of training, and the begin of the next ones."""
        self._follow(progress)
        loss = sums.means().get("loss")
        self.losses += [] if loss is None else [float(loss)]
        self.fire("on_step_end")
        self._stop_if_asked(progress)
        ends_epoch = progress.step % progress.steps_per_epoch == 0 or progress.is_last
        if ends_epoch:
            self.fire("on_epoch_end")
            self._stop_if_asked(progress)
        if not progress.is_last:
            if ends_epoch:
                self.fire("on_epoch_begin")
            self.fire("on_step_begin")

    def on_metrics(self, progress: Progress, values: Mapping[str, float]) -> None:
        """A line of the log, or a measurement."""
        self._follow(progress)
        logs = training_logs(values)
        if logs:
            self.log(logs)
            self.fire("on_log", logs=logs)
        metrics = evaluation_logs(values)
        if not metrics:
            return
        self.latest = metrics
        if self.from_start if progress.step == 0 else self.measures:
            self.log(metrics)
            self.fire("on_log", logs=metrics)
            self.fire("on_evaluate", metrics=metrics)
            self._keep_best(metrics)
            self._stop_if_asked(progress)

    def on_checkpoint(self, progress: Progress) -> None:
        """A checkpoint was written."""
        self.fire("on_save")

    def on_end(self, progress: Progress) -> None:
        """The end of training, however it came."""
        self._follow(progress)
        self.fire("on_train_end")

    def state(self) -> dict[str, Any]:
        """The log so far."""
        return {"log_history": list(self.trainer_state.log_history), "losses": list(self.losses)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with a saved log."""
        self.trainer_state.log_history = list(state["log_history"])
        self.losses = list(state["losses"])

    def _keep_best(self, metrics: Mapping[str, float]) -> None:
        """Note the best metric, behind the callbacks that compare with it, as transformers does."""
        name = self.args.metric_for_best_model
        value = metrics.get(f"eval_{str(name).removeprefix('eval_')}") if name else None
        best = self.trainer_state.best_metric
        if value is not None and (best is None or (value > best if self.args.greater_is_better else value < best)):
            self.trainer_state.best_metric, self.trainer_state.best_global_step = value, self.trainer_state.global_step

    def _follow(self, progress: Progress) -> None:
        self.trainer_state.global_step, self.trainer_state.epoch = progress.step, progress.epoch
        self.trainer_state.max_steps = max(self.trainer_state.max_steps, progress.num_steps)

    def _stop_if_asked(self, progress: Progress) -> None:
        if self.control.should_training_stop:
            progress.num_steps = progress.step
