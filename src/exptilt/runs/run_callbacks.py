"""The callbacks of a recipe's run, in the order in which they must be called."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from exptilt.data.groups import Group
from exptilt.losses.at_zero import loss_at_zero
from exptilt.losses.from_choice import build_loss
from exptilt.policies.saving import save_model
from exptilt.policies.turn_ends import turn_ends
from exptilt.processes.world import World
from exptilt.run_folder.file_names import BEST, METRICS
from exptilt.run_folder.folder import RunFolder
from exptilt.run_folder.run_record import Caution
from exptilt.runs.run_models import Models
from exptilt.sampling.draws import Draws, distinct_prompts, draw, room_for
from exptilt.sampling.sampling_law import SamplingLaw
from exptilt.settings.declaration import as_dict
from exptilt.settings.recipe import Recipe
from exptilt.settings.training_settings import TrainConfig, parse_best
from exptilt.training.callbacks.best import Best
from exptilt.training.callbacks.callback import Callback, Progress
from exptilt.training.callbacks.log import Evaluate, Log, LogMetrics
from exptilt.training.callbacks.progress_bar import ShowProgress
from exptilt.training.callbacks.sample_files import SampleFiles
from exptilt.training.callbacks.trackers import Trackers
from exptilt.training.guards.cautions import Facts
from exptilt.training.guards.guards import Guards
from exptilt.training.guards.stop_if import StopIf
from exptilt.training.sums import Sums
from exptilt.training.throughput import work_of

_USUAL_RATE, _USUAL_RATE_OF_ADAPTERS = 2e-5, 5e-4
"""The largest learning rates of published runs that train all weights, and of those that train an adapter."""


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


@dataclasses.dataclass(frozen=True)
class Watched:
    """The parts of a run that its callbacks read."""

    recipe: Recipe
    folder: RunFolder
    world: World
    models: Models
    products: torch.dtype
    tokenizer: Any
    rows: Sequence[Group]
    """Training rows."""
    held_out: Sequence[Group]
    held_out_sums: Callable[[], Sums]
    contradicting: int
    """Number of training rows whose label is the opposite of another row's."""
    quiet: bool

    @property
    def best(self) -> Path:
        """The folder of the best weights so far."""
        return self.folder.path / BEST

    def callbacks(self, *others: Callback) -> list[Callback]:
        """All callbacks of a run, with `others` among them.

        The writer of metrics comes first, then callbacks that may end the run, then those that must see its end: the last
        evaluation and, behind it, the last line of training.
        """
        settings, first = self.recipe.train, self.world.is_first
        log = Log(self.folder.path / METRICS, world=self.world)
        callbacks: list[Callback] = [log, *others]
        if settings.best is not None:
            callbacks.append(Best(*parse_best(settings.best), self._keep, settings.patience))  # type: ignore[arg-type]
        callbacks.append(StopIf(settings.conditions))
        callbacks.append(Guards(self._facts(), self._record, settings.dangers, settings.log_every, speaks=first))
        if first and settings.report_to:
            callbacks.append(Trackers(settings.report_to, self.folder.path, as_dict(self.recipe)))
        if self.held_out:
            callbacks.append(Evaluate(log, settings.eval_every, self.held_out_sums, self._samples()))
        work = work_of(self.models.policy, self.rows, self.products, self.world.size)
        callbacks.append(LogMetrics(log, settings.log_every, work))
        if first:
            callbacks.append(ShowProgress(0 if self.quiet else settings.log_every))
        log.listeners = callbacks
        return callbacks

    def _keep(self) -> None:
        models = self.models
        save_model(models.policy, self.tokenizer, self.best, dtype=models.dtype, world=self.world)

    def _facts(self) -> Facts:
        """The facts that guards need; with dropout the first losses scatter, and with another reference they begin anywhere."""
        recipe, loss = self.recipe, build_loss(self.recipe.loss)
        own = recipe.reference.model is None
        return Facts(
            loss.name,
            beta=_number(getattr(loss, "beta", None)),
            usual_beta=_number(getattr(type(loss), "beta", None)),
            learning_rate=recipe.optim.learning_rate,
            usual_rate=_USUAL_RATE if recipe.adapter is None else _USUAL_RATE_OF_ADAPTERS,
            max_grad_norm=recipe.optim.max_grad_norm,
            start_loss=loss_at_zero(loss) if own and not recipe.model.dropout else None,
            own_reference=own,
            vocabulary=getattr(self.models.policy.config.get_text_config(), "vocab_size", None),
            rows=None if recipe.rollout is not None else len(self.rows),  # prompts may be asked again and again
            contradicting=self.contradicting,
        )

    def _record(self, caution: Caution) -> None:
        """Write a warning to run.json once; a run that was killed may give it again."""
        known = self.folder.run.warnings
        if not any(
            (earlier.phase, earlier.step, earlier.name) == (caution.phase, caution.step, caution.name)
            for earlier in known
        ):
            self.folder.update_manifest(warnings=(*known, caution))

    def _samples(self) -> Callable[[Progress], Sums] | None:
        recipe, policy, held = self.recipe, self.models.policy, self.models.held
        if not recipe.train.eval_samples:
            return None
        prompts = distinct_prompts(self.held_out)[: recipe.train.eval_samples]
        law = SamplingLaw(
            max_new_tokens=room_for(policy, prompts, recipe.evaluate.max_new_tokens),
            eos_ids=turn_ends(self.tokenizer, policy, self.held_out),
        )

        def drawn() -> Draws:
            draws = draw(policy, self.tokenizer, prompts, law=law, seed=recipe.seed)
            return draws if held is None else draws.compared(policy, held.model)

        return SampleFiles(self.folder.write_lines, drawn, self.tokenizer)


def _number(given: Any) -> float | None:
    """A setting that is a plain number; objectives of users may have others."""
    return float(given) if isinstance(given, int | float) else None
