"""The reference of a run: a table scored before any weight moves, or a model that moves."""

from __future__ import annotations

from collections.abc import Sequence

from exptilt.data.chained import Chained
from exptilt.data.groups import Group
from exptilt.data.prepared import Prepared
from exptilt.policies.reference.references import START, LiveReference, TableReference, table_reference
from exptilt.processes.world import World
from exptilt.runs.run_batches import ObjectiveBatches
from exptilt.runs.run_models import Models, Setup
from exptilt.settings.model_settings import ReferenceConfig
from exptilt.training.callbacks.moving_reference import MovingReference
from exptilt.training.objective import Objective


def groups_to_score(
    objective: Objective,
    setup: Setup,
    rows: Prepared,
    batches: ObjectiveBatches,
    num_steps: int,
) -> Chained:
    """The groups that the reference scores: training rows if the loss compares with them, held-out rows for the report.

    Of the training rows these are all, or those of the steps that run where they do not go through all of them.
    """
    loss = objective.loss
    compares, adds = bool(loss.needs_reference), bool(loss.extra_completions)
    parts: list[Sequence[Group]] = [rows.test] if loss.kind.is_paired and loss.kind.has_reference else []
    if compares and (adds or not loss.kind.is_paired):
        parts.append(objective.prepare(rows.test))
    if compares and not setup.moves:
        parts.append(batches.groups(num_steps) if adds or num_steps < batches.num_steps else rows.train)
    return Chained(*parts)


def table_of(
    settings: ReferenceConfig, models: Models, groups: Chained, max_tokens: int, world: World
) -> TableReference | None:
    """Compute log-probabilities of these groups under the reference, by the weights before step 1."""
    if not groups:
        return None
    other = models.held if settings.model is not None else None
    return table_reference(
        models.policy if other is None else other.model,
        groups,
        source=settings.model or START,
        identity=models.weights if other is None else other.identity,
        cache=settings.cache,
        max_tokens=max_tokens,
        world=world,
    )


def moving_reference_of(settings: ReferenceConfig, models: Models, setup: Setup) -> MovingReference | None:
    """Make TR-DPO's reference; None if the reference does not move."""
    if not setup.moves or not isinstance(models.held, LiveReference):
        return None
    held = models.held
    return MovingReference(models.policy, held.model, settings.mix, settings.move_every, identity=held.identity)
