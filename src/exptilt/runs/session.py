"""One training run, opened from a recipe: models, rows, batches, reference, each made from those before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.console import Console

from exptilt.data.account.data_terminal import print_report
from exptilt.data.batching import Batches, pack, shares
from exptilt.data.groups import Group, digest_of
from exptilt.data.prepared import Prepared
from exptilt.losses.at_zero import loss_at_zero
from exptilt.losses.from_choice import build_loss
from exptilt.online.crediting import Crediting
from exptilt.online.rollouts import Rollouts
from exptilt.policies.critic import Critic
from exptilt.policies.engine.forward import evaluating
from exptilt.policies.reference.references import TableReference
from exptilt.policies.reference.start_distance import start_distance
from exptilt.policies.reference.step_zero import TOLERANCE, check_step_zero
from exptilt.policies.saving import save_model
from exptilt.policies.scorer import ModelScorer, Reference, Scorer
from exptilt.processes.world import World
from exptilt.run_folder.file_names import CRITIC, DATA
from exptilt.run_folder.folder import RunFolder
from exptilt.run_folder.run_record import ReferenceIdentity
from exptilt.runs.checks.stop_conditions import refuse_impossible
from exptilt.runs.identity import defaults_of, identity
from exptilt.runs.run_batches import ObjectiveBatches, batches_for, steps_in
from exptilt.runs.run_callbacks import Watched, contradicting, own_callbacks, trained
from exptilt.runs.run_critic import critic_models, learner_of
from exptilt.runs.run_models import Models, Setup, in_words, models_of, setup_of
from exptilt.runs.run_reference import groups_to_score, moving_reference_of, table_of
from exptilt.runs.run_rollouts import identity_of_rollouts, longest_rows, prompts_as_rows, rollouts_of
from exptilt.runs.run_rows import checked_with_model, rows_of
from exptilt.runs.run_tokenizer import find_tokenizer
from exptilt.runs.text_watch import step_samples, text_facts
from exptilt.runs.token_budget import settle_tokens
from exptilt.settings.declaration import as_dict
from exptilt.settings.recipe import Recipe
from exptilt.training.callbacks.callback import Callback, Progress
from exptilt.training.callbacks.moving_reference import MovingReference
from exptilt.training.callbacks.trackers import require_trackers
from exptilt.training.guards.dangers import OF_TEXTS
from exptilt.training.guards.measured_names import measured_names
from exptilt.training.objective import Objective
from exptilt.training.optim import build_optimizer, build_schedule
from exptilt.training.run import BatchSource, Run
from exptilt.training.sums import Sums
from exptilt.training.throughput import work_of
from exptilt.types import LogProbs

_STEP_ZERO_ROWS = 8
"""Rows compared with the reference before step 1."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """The parts of one training run. `open_session` makes it; `train` runs it."""

    recipe: Recipe
    folder: RunFolder
    console: Console
    world: World
    objective: Objective
    tokenizer: Any
    setup: Setup
    models: Models
    policy: ModelScorer
    rows: Prepared
    held_out: Sequence[Group]
    batches: BatchSource
    num_steps: int
    table: TableReference | None
    """The reference's log-probabilities of held-out rows and, where training compares with them, of training rows."""
    moving: MovingReference | None
    """The reference where it follows the policy."""
    rollouts: Rollouts | None = None
    """Where batches come from, if the policy draws them itself."""
    critic_models: Models | None = None
    """The critic as a model, before step 1; None where the loss needs none."""
    critic: Critic | None = None
    """The same as a scorer."""
    own_callbacks: Sequence[Callback] = field(default=())

    @property
    def anchor(self) -> Reference | None:
        """The reference that training compares the policy with; None if the objective needs none."""
        if self.rollouts is not None:
            return self.rollouts.reference if self.objective.loss.needs_reference else None
        if not self.objective.loss.needs_reference or self.moving is not None or self.table is None:
            return self.moving
        return self.table.as_sums() if self.objective.loss.sums_suffice else self.table

    def watched(self) -> Watched:
        """The parts of the run that callbacks read."""
        recipe, models, rows = self.recipe, self.models, self.rows
        opposite = contradicting(rows.report.findings, recipe.data.on_conflict)
        held_out = rows.test if self.rollouts is None else [one.group for one in self.rollouts.held_out]
        return Watched(
            settings=recipe.train,
            recipe=as_dict(recipe),
            folder=self.folder,
            world=self.world,
            facts=text_facts(recipe, models, len(rows.train), opposite),
            checks=OF_TEXTS,
            save=lambda folder: save_model(models.policy, self.tokenizer, folder, dtype=models.dtype, world=self.world),
            held_out_sums=self._held_out_sums if held_out else None,
            samples=step_samples(recipe, models, self.tokenizer, held_out, self.folder) if held_out else None,
            work=work_of(models.policy, rows.train, self.setup.products, self.world.size),
            quiet=self.console.quiet,
        )

    def train(self) -> Progress:
        """Train to the end, or until somebody stops it, and save the model at the end."""
        watched = self.watched()
        progress = trained(run_of(self, watched), watched, self.console)
        if progress.is_last and self.critic_models is not None:
            critic = self.critic_models
            save_model(critic.policy, self.tokenizer, self.folder.path / CRITIC, dtype=critic.dtype, world=self.world)
        return progress

    def _held_out_sums(self) -> Sums:
        """Sum loss and metrics over all held-out rows at once, so that batches and processes cannot change them."""
        if self.rollouts is not None:
            return self.rollouts.measure_held_out()
        dealt = shares(pack(self.held_out, self.recipe.batch.at_once), self.world.size)
        groups = [group for share in dealt for part in share for group in part]
        with torch.no_grad(), evaluating(self.models.policy):
            mine = [self.policy(part) for part in dealt[self.world.rank]]
            policy, anchor = LogProbs.cat(_gathered(mine, self.world)), self.anchor
            return self.objective(groups, policy, anchor(groups) if anchor else None).sums


def open_session(
    recipe: Recipe, folder: RunFolder, console: Console, world: World, callbacks: Sequence[Callback] = ()
) -> Session:
    """Make all parts of a run, in the only order that works.

    The reference is scored last, when rows and batches are known, and before any weight moves.

    Args:
        recipe: recipe of one phase; a supervised phase before it has ended.
        folder: folder of the run.
        console: console for messages.
        world: the processes that share the run.
        callbacks: the caller's own, beside those of the recipe.
    """
    require_trackers(recipe.train.report_to)
    refuse_impossible(recipe)
    own_callbacks(recipe.train)  # refused before anything is spent
    objective = Objective(build_loss(recipe.loss))
    setup = setup_of(recipe, objective.loss, world.size)
    tokenizer = world.first_before_others(lambda: find_tokenizer(recipe.model, recipe.data, folder.path))
    rows = rows_of(recipe, tokenizer, world)
    models = models_of(recipe.model, recipe.reference, setup, tokenizer, world)
    _say(console, in_words(models, setup, world))
    policy = models.scorer(setup, objective.loss)
    rows = checked_with_model(recipe, rows, objective.loss, models.policy, tokenizer)
    folder.write(DATA, rows.report)
    print_report(rows.report, console)
    planned = _planned(recipe, objective, rows, world)
    if planned is not None:
        refuse_impossible(recipe, measured_names(objective, objective.prepare(planned.groups(0))))
    probes = _probes(recipe, objective, rows, planned) if recipe.batch.tokens == "auto" else []
    tokens, words = settle_tokens(recipe.batch, recipe.optim, folder, policy, objective, probes, world)
    _say(console, words)
    rollouts = None if planned else rollouts_of(recipe, objective.loss, models, rows, tokenizer, tokens, world)
    critics = critic_models(recipe, objective.loss, setup, tokenizer, world)
    critic = None if critics is None else Critic(critics.policy)
    if rollouts is not None:
        rollouts.ratio_tolerance = TOLERANCE[setup.products] / 10
        if critic is not None:
            rollouts.credited = Crediting(objective=objective, critic=critic, tokens=recipe.batch.at_once, world=world)
    batches = ObjectiveBatches(planned, objective, tokens, world) if planned else rollouts
    assert batches is not None  # noqa: S101 - one of them is there
    num_steps, table = steps_in(recipe.train, batches.num_steps), None
    if isinstance(batches, ObjectiveBatches):
        groups = groups_to_score(objective, setup, rows, batches, num_steps)
        table = table_of(recipe.reference, models, groups, recipe.batch.at_once, world)
    reference = table or (models.held if rollouts else None)
    if reference is not None:
        folder.update_manifest(reference=ReferenceIdentity(identity=reference.identity, source=reference.source))
    return Session(
        recipe=recipe,
        folder=folder,
        console=console,
        world=world,
        objective=objective,
        tokenizer=tokenizer,
        setup=setup,
        models=models,
        policy=policy,
        rows=rows,
        held_out=rows.test if rollouts else objective.prepare(rows.test),
        batches=batches,
        num_steps=num_steps,
        table=table,
        moving=moving_reference_of(recipe.reference, models, setup),
        rollouts=rollouts,
        critic_models=critics,
        critic=critic,
        own_callbacks=callbacks,
    )


def _planned(recipe: Recipe, objective: Objective, rows: Prepared, world: World) -> Batches | None:
    """The batches of rows; None where the policy draws them itself."""
    if recipe.rollout is not None:
        return None
    return batches_for(objective.loss, rows.train, recipe.batch, seed=recipe.seed, world_size=world.size)


def _probes(recipe: Recipe, objective: Objective, rows: Prepared, planned: Batches | None) -> list[Group]:
    """Rows to measure memory on."""
    if planned is not None:
        return objective.prepare(planned.groups(0))
    return [] if recipe.rollout is None else longest_rows(rows, recipe.rollout, recipe.batch.size)


def run_of(session: Session, watched: Watched) -> Run:
    """Make the run for the loop: optimizer and schedule are built, step 0 is checked."""
    recipe, model = session.recipe, session.models.policy
    optimizer = build_optimizer(recipe.optim, model)
    online = session.rollouts is not None
    start = session.models.held if online else session.moving or session.table
    if session.objective.loss.needs_reference and start is not None:
        rollouts = recipe.rollout
        known = session.batches.step(0)[0] if rollouts is None else prompts_as_rows(session.rows, rollouts)
        first = known[:_STEP_ZERO_ROWS]
        with evaluating(model):
            if recipe.reference.model is None:
                check_step_zero(session.policy, start, first, session.setup.products)
            else:
                _say(session.console, _distance(session, start, first))
    rows = {"data": digest_of(session.rows.train), "held-out rows": digest_of(session.rows.test)}
    content = rows | {"starting weights": session.models.weights}
    if session.rollouts is not None:
        content |= identity_of_rollouts(session.rollouts, session.world)
    if session.critic_models is not None:
        content["critic's starting weights"] = session.critic_models.weights
    parts = [part for part in (session.moving, session.rollouts) if part is not None]
    return Run(
        model=model,
        objective=session.objective,
        policy=session.policy,
        reference=session.anchor,
        batches=session.batches,
        optimizer=optimizer,
        schedule=build_schedule(recipe.optim, optimizer, session.num_steps),
        settings=recipe.train,
        max_grad_norm=recipe.optim.max_grad_norm,
        num_steps=session.num_steps,
        folder=session.folder.path,
        identity=identity(recipe, **content),
        defaults=defaults_of(recipe),
        callbacks=watched.callbacks(*parts, *own_callbacks(recipe.train), *session.own_callbacks),
        seed=recipe.seed,
        world=session.world,
        critic=learner_of(session.critic_models, session.critic, recipe.critic, session.num_steps),
        **({} if session.rollouts is None else {"drawn": session.rollouts.measure}),
    )


def _distance(session: Session, reference: Scorer, groups: Sequence[Group]) -> str:
    """One line about the start of a run against another reference."""
    loss = None
    if groups and not session.objective.loss.is_stateful and session.rollouts is None:
        with torch.no_grad():
            loss = session.objective(groups, session.policy(groups), reference(groups)).sums.means()["loss"]
    at_zero, name = loss_at_zero(session.objective.loss), str(session.recipe.reference.model)
    return start_distance(session.policy, reference, groups, name=name, loss=loss, at_zero=at_zero)


def _say(console: Console, words: str) -> None:
    if words:
        console.print(words, soft_wrap=True, highlight=False)


def _gathered(mine: Sequence[LogProbs], world: World) -> list[LogProbs]:
    """Gather the log-probabilities of all processes, in the order of their ranks."""
    if world.size == 1:
        return list(mine)
    device: Any = mine[0].lengths.device
    return [part.to(device) for parts in world.gather([logps.to("cpu") for logps in mine]) for part in parts]
