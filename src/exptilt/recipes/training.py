"""`exptilt train`: from rows to a measured model, in one folder, resumable at any moment."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import torch
import transformers
from rich.console import Console

from exptilt.data.batching import Batches, pack
from exptilt.data.groups import Group
from exptilt.data.prepare import Prepared, prepare
from exptilt.data.report import print_report
from exptilt.policies.fingerprint import fingerprint
from exptilt.policies.forward import context_length, evaluating
from exptilt.policies.models import load_model, save_model
from exptilt.policies.scoring import score
from exptilt.recipes.measure import measure_policy
from exptilt.recipes.recipe import Recipe
from exptilt.recipes.references import ReferenceTable, reference_model, reference_table
from exptilt.recipes.run_folder import RunFolder, digest_of, identity, manifest
from exptilt.recipes.vocabulary import find_tokenizer
from exptilt.reports import write_report
from exptilt.train.callbacks import Callback, Evaluate, GuardLoss, LogMetrics
from exptilt.train.loop import Run, train
from exptilt.train.metrics_file import MetricsFile
from exptilt.train.moving_reference import MovingReference
from exptilt.train.objective import Objective
from exptilt.train.optim import build_optimizer, build_schedule
from exptilt.train.show import ShowProgress
from exptilt.train.step import MicroBatches, Scorer
from exptilt.train.step_zero import check_step_zero
from exptilt.train.sums import Sums
from exptilt.types import LogProbs

_STEP_ZERO_ROWS = 8
"""Rows compared with the reference before step 1."""


@dataclass(frozen=True)
class Outcome:
    """Where a run stands when `run_recipe` returns."""

    folder: RunFolder
    step: int
    finished: bool


@dataclass(frozen=True)
class ObjectiveBatches:
    """The run's batches as the objective wants them scored: KTO adds completions of other rows to each."""

    batches: Batches
    objective: Objective
    tokens: int | None

    @property
    def num_steps(self) -> int:
        """Steps per epoch."""
        return self.batches.num_steps

    def step(self, step: int) -> MicroBatches:
        """The micro-batches of one step."""
        return pack(self.objective.prepare(self.batches.groups(step)), self.tokens)

    def all_groups(self, num_steps: int) -> list[Group]:
        """Everything that will be scored in a run of `num_steps`; repetitions included."""
        return [group for step in range(num_steps) for groups in self.step(step) for group in groups]


def run_recipe(recipe: Recipe, console: Console | None = None, *, page: bool = True) -> Outcome:
    """Train, measure and report by a recipe.

    Called again after an interruption it goes on where it was; after the end it does nothing.

    Raises:
        ExptiltError: with a line for a person: data that cannot be used, a model that is none, a loss that is not finite.
    """
    console = console or Console(stderr=True)
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    folder = RunFolder(recipe.folder)
    if folder.is_finished_run_of(recipe):
        console.print(f"{folder.path}: this run is finished; its model is in {folder.model}")
        return Outcome(folder, folder.read("run.json")["steps"], finished=True)
    folder.begin(recipe)
    folder.write("run.json", manifest(recipe) | folder.read("run.json") | {"status": "running"})
    start = recipe.model
    if recipe.sft is not None:
        first = run_recipe(recipe.sft_recipe(), console, page=False)
        if not first.finished:
            return Outcome(folder, 0, finished=False)
        start = replace(recipe.model, path=str(first.folder.model), config=None, tokenizer=None, revision=None)
    return _Session(replace(recipe, model=start, sft=None), folder, console).run(page)


class _Session:
    """The parts of one run, put together in the only right order: rows, model, reference, loop, measurements."""

    def __init__(self, recipe: Recipe, folder: RunFolder, console: Console) -> None:
        self.recipe, self.folder, self.console = recipe, folder, console
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.objective = Objective(recipe.loss)
        self.tokenizer = find_tokenizer(recipe)
        self.model = self._start()
        self.rows = self._rows()
        self.batches = ObjectiveBatches(
            Batches(self.rows.train, recipe.batch, seed=recipe.seed), self.objective, recipe.batch.tokens
        )
        self.num_steps = max(1, round(recipe.train.epochs * self.batches.num_steps))
        if recipe.train.max_steps is not None:
            self.num_steps = min(self.num_steps, recipe.train.max_steps)
        self.held_out = self.objective.prepare(self.rows.test)
        self.start = fingerprint(self.model)
        self.moving = self._moving_reference()
        self.reference = self._reference()

    def run(self, page: bool) -> Outcome:
        """Train, then measure and report."""
        began = time.perf_counter()
        run = self._training()
        place = train(run)
        spent = self.folder.read("run.json").get("seconds", 0.0) + time.perf_counter() - began
        self.folder.update_manifest(steps=place.step, seconds=round(spent, 1))
        if not place.is_last:
            self.folder.update_manifest(status="stopped")
            return Outcome(self.folder, place.step, finished=False)
        save_model(self.model, self.tokenizer, self.folder.model)
        self._measure()
        self.folder.update_manifest(status="done", finished=datetime.now(UTC).isoformat(timespec="seconds"))
        self.console.print(f"model: {self.folder.model}", soft_wrap=True, highlight=False)
        if page:
            self.console.print(f"report: {write_report([self.folder.path])}", soft_wrap=True, highlight=False)
        return Outcome(self.folder, place.step, finished=True)

    def _start(self) -> Any:
        """The weights the run starts from, as they were before step 1."""
        model: Any = load_model(self.recipe.model, self.tokenizer, seed=self.recipe.seed)
        return model.to(self.device)

    @property
    def _trains_on_reference(self) -> bool:
        return bool(self.objective.loss.needs_reference)

    def _rows(self) -> Prepared:
        context = context_length(self.model)
        rows = prepare(self.recipe.data, self.tokenizer, self.objective.loss.kind, context)
        self.folder.write("data.json", rows.report.as_dict())
        print_report(rows.report, self.console)
        return rows

    def _moving_reference(self) -> MovingReference | None:
        settings = self.recipe.reference
        if not settings.move_every or not self._trains_on_reference:
            return None
        return MovingReference(self.model, reference_model(self.recipe, self.model), settings.mix, settings.move_every)

    def _reference(self) -> ReferenceTable | None:
        """Score the reference before anything moves: training rows where the loss asks, held-out rows for the report."""
        loss = self.objective.loss
        groups = list(self.held_out) if self._trains_on_reference or loss.kind == "pair" else []
        if self._trains_on_reference and self.moving is None:
            mixes_rows = "mismatched" in loss.inputs
            groups += self.batches.all_groups(self.num_steps) if mixes_rows else self.rows.train
        if not groups:
            return None
        table = reference_table(self.recipe, self.model, groups)
        self.folder.update_manifest(reference={"identity": table.identity, "source": table.source})
        return table

    def _policy(self, groups: Sequence[Group]) -> LogProbs:
        table = self.reference
        live = self.moving.model if self.moving is not None else table.live if table is not None else None
        return score(self.model, groups, byproducts=self.objective.loss.byproducts, reference=live)

    def _training(self) -> Run:
        recipe = self.recipe
        optimizer = build_optimizer(recipe.optim, self.model)
        reference = self._anchor()
        if reference is not None and recipe.reference.model is None:
            first = self.batches.step(0)[0][:_STEP_ZERO_ROWS]
            with evaluating(self.model):
                check_step_zero(self._policy, reference, first, self.model.dtype)
        return Run(
            model=self.model,
            objective=self.objective,
            policy=self._policy,
            reference=reference,
            batches=self.batches,
            optimizer=optimizer,
            schedule=build_schedule(recipe.optim, optimizer, self.num_steps),
            settings=recipe.train,
            max_grad_norm=recipe.optim.max_grad_norm,
            num_steps=self.num_steps,
            folder=self.folder.path,
            identity=identity(recipe, **{"data": digest_of(self.rows.train), "starting weights": self.start}),
            callbacks=self._callbacks(),
            seed=recipe.seed,
        )

    def _anchor(self) -> Scorer | None:
        """What training compares with, where the objective compares with anything."""
        if not self._trains_on_reference:
            return None
        return self.moving or self.reference

    def _callbacks(self) -> list[Callback]:
        metrics = MetricsFile(self.folder.path / "metrics.jsonl")
        callbacks: list[Callback] = [LogMetrics(metrics, self.recipe.train.log_every)]
        if self.held_out:
            callbacks.append(Evaluate(metrics, self.recipe.train.eval_every, self._held_out_sums))
        shown = ShowProgress(0 if self.console.quiet else self.recipe.train.log_every)
        if self.moving is not None:
            callbacks.append(self.moving)
        return [*callbacks, GuardLoss(self.recipe.train.stop_if_loss_above), shown]

    def _held_out_sums(self) -> Sums:
        """Loss and metrics over all held-out rows at once, so that no batch size can matter."""
        parts = pack(self.held_out, self.recipe.batch.tokens or 8192)
        groups = [group for part in parts for group in part]
        with torch.no_grad(), evaluating(self.model):
            policy = LogProbs.cat([self._policy(part) for part in parts])
            anchor = self._anchor()
            return self.objective(groups, policy, anchor(groups) if anchor else None).sums

    def _measure(self) -> None:
        """Write evaluation.json, its margins and samples.jsonl, against the reference the run had throughout."""
        if not self.held_out:
            return
        found = measure_policy(self.recipe, self.model, self._start, self.tokenizer, self.held_out, self.reference)
        if found.evaluation:
            self.folder.write("evaluation.json", found.evaluation)
        if found.samples:
            self.folder.write_lines("samples.jsonl", found.samples)
        if found.margins:
            self.folder.write_lines("evaluation-margins.jsonl", found.margins)
