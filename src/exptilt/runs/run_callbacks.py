"""The callbacks of a run, of texts or of masks, in the order in which they must be called; and the end of its training."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from exptilt.policies.saving import copy_model
from exptilt.processes.world import World
from exptilt.run_folder.file_names import BEST, METRICS
from exptilt.run_folder.folder import RunFolder
from exptilt.run_folder.run_record import Caution
from exptilt.settings.training_settings import TrainConfig, parse_best
from exptilt.training.callbacks.best import Best, best_in_words
from exptilt.training.callbacks.callback import Callback, Progress
from exptilt.training.callbacks.log import Evaluate, Log, LogMetrics
from exptilt.training.callbacks.progress_bar import ShowProgress
from exptilt.training.callbacks.trackers import Trackers
from exptilt.training.guards.cautions import Facts
from exptilt.training.guards.checks import Checks
from exptilt.training.guards.guards import Guards
from exptilt.training.guards.stop_if import StopIf
from exptilt.training.loop import train
from exptilt.training.run import Run
from exptilt.training.sums import Sums
from exptilt.training.throughput import Work


def own_callbacks(settings: TrainConfig) -> list[Callback]:
    """New objects of the callbacks that a recipe imports.

    Raises:
        ConfigError: the source of a callback differs from the one the recipe was written with, or it cannot be made.
    """
    callbacks: list[Callback] = []
    for number, part in enumerate(settings.callbacks):
        part.require_unchanged(f"train.callbacks[{number}]")
        callbacks.append(part.make())
    return callbacks


@dataclasses.dataclass(frozen=True, kw_only=True)
class Watched:
    """The parts of a run that its callbacks read; texts and masks differ in these and in nothing else."""

    settings: TrainConfig
    recipe: Mapping[str, Any]
    """The whole recipe as plain values, for trackers."""
    folder: RunFolder
    world: World
    facts: Facts
    checks: Checks
    """The dangers that metrics of this run can show."""
    save: Callable[[Path], None]
    """Writes the weights as they are now into a folder; called in every process."""
    held_out_sums: Callable[[], Sums] | None
    """Loss and metrics of held-out rows; None where nothing is held out."""
    samples: Callable[[Progress], Sums] | None = None
    """What is drawn at every evaluation."""
    work: Work | None = None
    """Operations of a step beside those the hardware could do."""
    quiet: bool = False

    def callbacks(self, *others: Callback) -> list[Callback]:
        """All callbacks of a run, with `others` among them.

        The writer of metrics comes first, then callbacks that may end the run, then those that must see its end: the last
        evaluation and, behind it, the last line of training.
        """
        settings, first = self.settings, self.world.is_first
        log = Log(self.folder.path / METRICS, world=self.world)
        callbacks: list[Callback] = [log, *others]
        if settings.best is not None:
            callbacks.append(Best(*parse_best(settings.best), self._keep, settings.patience))  # type: ignore[arg-type]
        callbacks.append(StopIf(settings.conditions))
        guards = Guards(
            self.facts, self._record, settings.dangers, settings.log_every, speaks=first, checks=self.checks
        )
        callbacks.append(guards)
        if first and settings.report_to:
            callbacks.append(Trackers(settings.report_to, self.folder.path, self.recipe))
        if self.held_out_sums is not None:
            callbacks.append(Evaluate(log, settings.eval_every, self.held_out_sums, self.samples))
        callbacks.append(LogMetrics(log, settings.log_every, self.work))
        if first:
            callbacks.append(ShowProgress(0 if self.quiet else settings.log_every))
        log.listeners = callbacks
        return callbacks

    def _keep(self) -> None:
        self.save(self.folder.path / BEST)

    def _record(self, caution: Caution) -> None:
        """Write a warning to run.json once; a run that was killed may give it again."""
        known = self.folder.run.warnings
        if not any(
            (earlier.phase, earlier.step, earlier.name) == (caution.phase, caution.step, caution.name)
            for earlier in known
        ):
            self.folder.update_manifest(warnings=(*known, caution))


def trained(run: Run, watched: Watched, console: Console) -> Progress:
    """Train a run to its end, or until somebody stops it; at the end, write its model.

    The model has the weights that `train.best` kept, or else those of the last step.
    """
    folder, began = watched.folder, time.perf_counter()
    progress = train(run)
    spent = (folder.run.seconds or 0.0) + time.perf_counter() - began
    folder.update_manifest(steps=progress.step, seconds=round(spent, 1))
    best = next((callback for callback in run.callbacks if isinstance(callback, Best)), None)
    if not progress.is_last:
        folder.update_manifest(status="stopped")
    elif best is not None:
        best_weights = best.kept()
        folder.update_manifest(kept=best_weights)
        console.print(best_in_words(best_weights, progress.step), soft_wrap=True, highlight=False)
        run.world.first_alone(lambda: copy_model(folder.path / BEST, folder.model))
    else:
        watched.save(folder.model)
    return progress


def contradicting(findings: Sequence[Any], policy: str) -> int:
    """Number of training rows that contradict others and were not left out.

    Args:
        findings: of the account of the data.
        policy: `data.on_conflict`.
    """
    if policy == "drop":
        return 0
    return sum(finding.count or 0 for finding in findings if finding.code == "conflict")
