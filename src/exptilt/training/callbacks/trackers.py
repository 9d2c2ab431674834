"""Experiment trackers: every line of metrics goes to those that a recipe names, through accelerate."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exptilt.errors import ConfigError, TrainingError
from exptilt.settings.declaration import dotted
from exptilt.training.callbacks.callback import Callback, Progress
from exptilt.wording import did_you_mean, in_one_line

logger = logging.getLogger(__name__)

PROJECT = "exptilt"
"""Name of the project or experiment in a tracker; the environment of a tracker wins."""

EXTRAS = ("tensorboard", "wandb", "trackio", "mlflow")
"""Trackers that `pip install 'exptilt[NAME]'` brings."""


def require_trackers(names: Sequence[str]) -> None:
    """Refuse a tracker that is unknown or not installed.

    Raises:
        ConfigError: in one line, with what to install.
    """
    if not names:
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
    from accelerate.utils import LoggerType

    available = {str(kind) for kind in get_available_trackers()}
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            meant = did_you_mean(name, sorted(LOGGER_TYPE_TO_CLASS))
            raise ConfigError(f"train.report_to: unknown tracker {name!r}{meant}")
        if name in LoggerType.list() and name not in available:
            package = f"'exptilt[{name}]'" if name in EXTRAS else name
            raise ConfigError(
                f"train.report_to: {name} is not installed; pip install {package}, or take it out "
                "(metrics.jsonl is always written)"
            )


@dataclass
class Trackers(Callback):
    """Sends the recipe once, then every line of metrics; it runs in the first process alone.

    A tracker that cannot begin ends the run before its first step. One that fails later is reported once and left out:
    nothing is lost, since metrics.jsonl holds every line.
    """

    names: Sequence[str]
    folder: Path
    """The run's: it gives the run its name, and trackers that write files a place."""
    recipe: Mapping[str, Any]
    """Nested plain values of the recipe; sent flat, `loss.beta` and so on."""
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Key by which a tracker finds the run again after a resume."""
    mlflow_run: str | None = None
    """Mlflow gives out keys of its own."""
    trackers: dict[str, Any] = field(default_factory=dict, init=False)

    def on_start(self, progress: Progress) -> None:
        """Begin or continue a run in every tracker."""
        require_trackers(self.names)
        for name in self.names:
            try:
                self.trackers[name] = self._start_tracker(name, progress.step)
            except Exception as error:  # whatever a foreign service raises
                raise TrainingError(
                    f"train.report_to: {name} cannot begin ({in_one_line(error)}); take it out, or set what it needs"
                    f"{' (WANDB_MODE=offline needs no network)' if name == 'wandb' else ''}"
                ) from error

    def _start_tracker(self, name: str, step: int) -> Any:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        kind = LOGGER_TYPE_TO_CLASS[name]
        folder_argument = [str(self.folder)] if kind.requires_logging_directory else []
        _look_alone()
        project = name if name == "tensorboard" else PROJECT  # there it is the folder of its files
        tracker: Any = kind(project, *folder_argument, **self._settings(name, step))
        tracker.main_process_only = False  # only the first process has one
        tracker.start()
        if name == "mlflow":
            self.mlflow_run = tracker.tracker.info.run_id
        if not step:
            flat = dotted(self.recipe)
            plain = {
                key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in flat.items()
            }
            tracker.store_init_configuration(plain)
        return tracker

    def _settings(self, name: str, step: int) -> dict[str, Any]:
        """The arguments that name and continue a run, which differ by service."""
        called = self.folder.resolve().name
        if name == "wandb":
            return {"name": called, "id": self.key, "resume": "allow", "dir": str(self.folder)}
        if name == "trackio":
            return {"name": f"{called}-{self.key[:6]}", "resume": "allow"}
        if name == "mlflow":
            return {"run_name": called, "run_id": self.mlflow_run}
        return {"purge_step": step + 1} if name == "tensorboard" and step else {}

    def on_metrics(self, progress: Progress, values: Mapping[str, float]) -> None:
        """Send a line of metrics."""
        for name, tracker in list(self.trackers.items()):
            try:
                tracker.log(dict(values), step=progress.step)
            except Exception as error:
                logger.warning(
                    "train.report_to: %s failed at step %s (%s) and gets nothing more of this run; metrics.jsonl goes on",
                    name,
                    progress.step,
                    in_one_line(error),
                )
                del self.trackers[name]

    def on_end(self, progress: Progress) -> None:
        """Finish every tracker, so that nothing stays in a buffer."""
        for name, tracker in self.trackers.items():
            try:
                tracker.finish()
            except Exception as error:
                logger.warning("train.report_to: %s did not finish properly (%s)", name, in_one_line(error))
        self.trackers.clear()

    def state(self) -> dict[str, Any]:
        """The keys of the run."""
        return {"key": self.key, "mlflow_run": self.mlflow_run}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue under saved keys."""
        self.key, self.mlflow_run = state["key"], state["mlflow_run"]


def _look_alone() -> None:
    """Let accelerate see a single process while it looks at the processes of this run.

    Its loggers refuse to work before it has looked, and where it sees several it sets threads and devices.
    """
    from accelerate.state import PartialState

    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
    hidden = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        PartialState(cpu=True)
    finally:
        os.environ.update(hidden)
