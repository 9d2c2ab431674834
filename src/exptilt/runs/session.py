"""The parts of one training run, put together in the only right order: models, rows, reference, loop."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from rich.console import Console

from exptilt.data.account.data_report import print_report
from exptilt.data.batching import Batches, budget_use, pack, shares
from exptilt.data.groups import Group, digest_of
from exptilt.data.prepare import Prepared, prepare
from exptilt.policies.engine.forward import context_length, evaluating
from exptilt.policies.policy import Policy
from exptilt.policies.reference.step_zero import check_step_zero
from exptilt.policies.reference.table import ReferenceTable, Together, reference_table
from exptilt.policies.saving import copy_model, save_model
from exptilt.policies.scorer import MicroBatches, Scorer
from exptilt.processes.allocator import given_back
from exptilt.processes.world import World
from exptilt.run_folder.folder import RunFolder
from exptilt.runs.checks.ches_filter import leave_out_displacing
from exptilt.runs.checks.familiarity import check_reference
from exptilt.runs.identity import identity
from exptilt.runs.run_callbacks import Watched
from exptilt.runs.run_models import in_words, precision_for, trained_models
from exptilt.runs.run_tokenizer import find_tokenizer
from exptilt.runs.token_budget import settle_tokens
from exptilt.settings.recipe import Recipe
from exptilt.training.callbacks.callback import Callback, Progress
from exptilt.training.callbacks.moving_reference import MovingReference
from exptilt.training.callbacks.trackers import require_trackers
from exptilt.training.loop import train
from exptilt.training.objective import Objective
from exptilt.training.optim import build_optimizer, build_schedule
from exptilt.training.run import Run
from exptilt.training.sums import Sums
from exptilt.types import LogProbs

_STEP_ZERO_ROWS = 8
"""Rows compared with the reference before step 1."""
_FILL_STEPS = 50
"""Steps over which it is counted how full micro-batches are."""


@dataclass(frozen=True)
class ObjectiveBatches:
    """The run's batches as the objective wants them scored: KTO adds completions of other rows to each."""

    batches: Batches
    objective: Objective
    tokens: int | None
    world: World

    @property
    def num_steps(self) -> int:
        """Steps per epoch."""
        return self.batches.num_steps

    def step(self, step: int) -> MicroBatches:
        """This process's micro-batches of one step."""
        return shares(self._all(step), self.world.size)[self.world.rank]

    def all_groups(self, num_steps: int) -> list[Group]:
        """Everything that all processes will score in a run of `num_steps`; repetitions included."""
        return [group for step in range(num_steps) for groups in self._all(step) for group in groups]

    def _all(self, step: int) -> list[list[Group]]:
        return pack(self.objective.prepare(self.batches.groups(step)), self.tokens)


class Session:
    """One run, from a recipe to a saved model."""

    def __init__(
        self, recipe: Recipe, folder: RunFolder, console: Console, world: World, callbacks: Sequence[Callback] = ()
    ) -> None:
        self.recipe, self.folder, self.console, self.world, self.others = recipe, folder, console, world, callbacks
        require_trackers(recipe.train.report_to)
        self.objective = Objective(recipe.loss)
        self.tokenizer = world.first_before_others(lambda: find_tokenizer(recipe))
        loss = self.objective.loss
        self.moves = bool(recipe.reference.move_every) and bool(loss.needs_reference)
        live = "divergence" in loss.byproducts
        holds = live or bool(recipe.train.eval_samples)
        self.models = trained_models(recipe, self.tokenizer, world, hold_reference=holds, moving=self.moves)
        console.print(in_words(recipe, self.models, world), soft_wrap=True, highlight=False)
        self.policy = Policy(self.models.policy, loss.byproducts, self.models.reference if live else None)
        self.rows = self._rows()
        self.held_out = self.objective.prepare(self.rows.test)
        batches = Batches(self.rows.train, recipe.batch, seed=recipe.seed, world_size=world.size)
        self.batches = ObjectiveBatches(batches, self.objective, self._tokens(batches), world)
        self.num_steps = max(1, round(recipe.train.epochs * batches.num_steps))
        self.num_steps = min(self.num_steps, recipe.train.max_steps or self.num_steps)
        self.reference = self._reference()
        self.moving = self._moving_reference()

    def train(self) -> Progress:
        """Train to the end, or to where somebody stops it, and save the model at the end."""
        began = time.perf_counter()
        place = train(self._run())
        spent = self.folder.read("run.json").get("seconds", 0.0) + time.perf_counter() - began
        self.folder.update_manifest(steps=place.step, seconds=round(spent, 1))
        if not place.is_last:
            self.folder.update_manifest(status="stopped")
        elif self.recipe.train.best is not None:
            self.world.first_alone(lambda: copy_model(self.watched.best, self.folder.model))
        else:
            models = self.models
            save_model(models.policy, self.tokenizer, self.folder.model, dtype=models.dtype, world=self.world)
        return place

    @property
    def watched(self) -> Watched:
        """What callbacks look at."""
        return Watched(
            recipe=self.recipe,
            folder=self.folder,
            world=self.world,
            models=self.models,
            tokenizer=self.tokenizer,
            rows=self.rows.train,
            held_out=self.held_out,
            held_out_sums=self._held_out_sums,
            quiet=self.console.quiet,
        )

    @property
    def _compares(self) -> bool:
        return bool(self.objective.loss.needs_reference)

    def _rows(self) -> Prepared:
        kind, context = self.objective.loss.kind, context_length(self.models.policy)
        rows = self.world.first_before_others(lambda: prepare(self.recipe.data, self.tokenizer, kind, context))
        rows = leave_out_displacing(self.models.policy, rows, self.recipe.data.drop_highest_ches, kind=kind)
        if kind == "pair" and self.recipe.reference.model is None:
            with given_back():
                finding = check_reference(self.models.policy, self.tokenizer, rows, seed=self.recipe.seed)
            rows = replace(rows, report=rows.report.adding(finding))
        if self.recipe.batch.limit is not None:
            steps = Batches(rows.train, self.recipe.batch, seed=self.recipe.seed)
            used = budget_use(
                (steps.step(n) for n in range(min(_FILL_STEPS, steps.num_steps))), self.recipe.batch.limit
            )
            rows = replace(rows, report=rows.report.adding(used.finding()))
        self.folder.write("data.json", rows.report.as_dict())
        print_report(rows.report, self.console)
        return rows

    def _tokens(self, batches: Batches) -> int | None:
        """The token budget of a micro-batch; `auto` measures what fits."""
        tokens, words = settle_tokens(
            self.recipe,
            self.folder,
            self.policy,
            self.objective,
            lambda: self.objective.prepare(batches.groups(0)),
            self.world,
        )
        if words:
            self.console.print(words, soft_wrap=True, highlight=False)
        return tokens

    def _reference(self) -> ReferenceTable | None:
        """Score the reference before anything moves: training rows where the loss asks, held-out rows for the report."""
        loss = self.objective.loss
        parts: list[Sequence[Group]] = [self.held_out] if self._compares or loss.kind == "pair" else []
        if self._compares and not self.moves:
            mixes_rows = "mismatched" in loss.inputs
            parts.append(self.batches.all_groups(self.num_steps) if mixes_rows else self.rows.train)
        groups = Together(*parts)
        if not groups:
            return None
        models = self.models
        table = reference_table(
            self.recipe, models.policy, groups, held=models.reference, weights=models.anchor, world=self.world
        )
        self.folder.update_manifest(reference={"identity": table.identity, "source": table.source})
        return table

    def _moving_reference(self) -> MovingReference | None:
        settings = self.recipe.reference
        if not self.moves:
            return None
        return MovingReference(self.models.policy, self.models.reference, settings.mix, settings.move_every)

    def _run(self) -> Run:
        recipe, model = self.recipe, self.models.policy
        optimizer = build_optimizer(recipe.optim, model)
        start = self.moving or self.reference
        if self._compares and start is not None and recipe.reference.model is None:
            first = self.batches.step(0)[0][:_STEP_ZERO_ROWS]
            with evaluating(model):
                check_step_zero(self.policy, start, first, precision_for(recipe))
        return Run(
            model=model,
            objective=self.objective,
            policy=self.policy,
            reference=self._anchor(),
            batches=self.batches,
            optimizer=optimizer,
            schedule=build_schedule(recipe.optim, optimizer, self.num_steps),
            settings=recipe.train,
            max_grad_norm=recipe.optim.max_grad_norm,
            num_steps=self.num_steps,
            folder=self.folder.path,
            identity=identity(recipe, **{"data": digest_of(self.rows.train), "starting weights": self.models.weights}),
            callbacks=self.watched.callbacks(*([self.moving] if self.moving else []), *self.others),
            seed=recipe.seed,
            world=self.world,
        )

    def _anchor(self) -> Scorer | None:
        """What training compares with, where the objective compares with anything."""
        if not self._compares or self.moving is not None or self.reference is None:
            return self.moving
        return self.reference.sums if self.objective.loss.sums_suffice else self.reference

    def _held_out_sums(self) -> Sums:
        """Loss and metrics over all held-out rows at once, so that neither batch nor processes can matter."""
        dealt = shares(pack(self.held_out, self.recipe.batch.at_once), self.world.size)
        groups = [group for share in dealt for part in share for group in part]
        with torch.no_grad(), evaluating(self.models.policy):
            mine = [self.policy(part) for part in dealt[self.world.rank]]
            policy = LogProbs.cat(self._gathered(mine))
            anchor = self._anchor()
            return self.objective(groups, policy, anchor(groups) if anchor else None).sums

    def _gathered(self, mine: Sequence[LogProbs]) -> list[LogProbs]:
        if self.world.size == 1:
            return list(mine)
        device: Any = mine[0].lengths.device
        return [part.to(device) for parts in self.world.gather([one.to("cpu") for one in mine]) for part in parts]
