"""The batches of a run, with the completions that its objective adds, and the number of steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from exptilt.data.batching import Batches, budget_use, pack, shares
from exptilt.data.groups import Group
from exptilt.data.problems import finding_of
from exptilt.errors import DataError
from exptilt.losses import Loss
from exptilt.policies.scorer import MicroBatches
from exptilt.processes.world import World
from exptilt.run_folder.data_record import Finding
from exptilt.settings.data_settings import BatchConfig
from exptilt.settings.training_settings import TrainConfig
from exptilt.training.columns import columns_of
from exptilt.training.objective import Objective

_FILL_STEPS = 50
"""Steps over which it is counted how full micro-batches are."""


def batches_for(
    loss: Loss, groups: Sequence[Group], settings: BatchConfig, *, seed: int, world_size: int = 1
) -> Batches:
    """Make the batches of a run; none is too small for the loss: KTO mixes rows, so it needs two."""
    least = 2 if loss.mixes_rows else 1
    return Batches(groups, settings, seed=seed, world_size=world_size, least=min(least, settings.size))


def check_batches(
    loss: Loss, train: Sequence[Group], test: Sequence[Group], settings: BatchConfig, epochs: TrainConfig, *, seed: int
) -> tuple[Finding, ...]:
    """Form every batch of a run without a model, and report their fill; a batch that cannot be formed is an error.

    Args:
        loss: says which columns and which other rows each row needs.
        train: prepared rows.
        test: held-out rows, which are one batch.
        settings: settings of batches.
        epochs: says how many steps there will be.
        seed: seed of the run.
    """
    if not train:
        return ()
    objective = Objective(loss)
    batches = batches_for(loss, train, settings, seed=seed)
    try:
        for groups in (train, test):
            columns_of(groups, loss, torch.device("cpu"))
        objective.prepare(test)
        for step in range(steps_in(epochs, batches.num_steps) if loss.mixes_rows else 0):
            objective.prepare(batches.groups(step))
    except DataError as error:
        return (finding_of("unformed_batch", str(error), 1),)
    if settings.limit is None:
        return ()
    first_steps = (batches.step(step) for step in range(min(_FILL_STEPS, batches.num_steps)))
    return (budget_use(first_steps, settings.limit).finding(),)


@dataclass(frozen=True)
class ObjectiveBatches:
    """Batches with the completions that an objective adds: KTO scores a completion of another row beside each."""

    batches: Batches
    objective: Objective
    tokens: int | None
    """Most tokens of a micro-batch."""
    world: World

    @property
    def num_steps(self) -> int:
        """Steps per epoch."""
        return self.batches.num_steps

    def step(self, step: int) -> MicroBatches:
        """The micro-batches of one step that this process runs."""
        return shares(self._micro_batches(step), self.world.size)[self.world.rank]

    def groups(self, num_steps: int) -> list[Group]:
        """All groups that all processes score in a run of `num_steps`, repetitions included."""
        return [group for step in range(num_steps) for groups in self._micro_batches(step) for group in groups]

    def _micro_batches(self, step: int) -> list[list[Group]]:
        return pack(self.objective.prepare(self.batches.groups(step)), self.tokens)


def steps_in(train: TrainConfig, steps_per_epoch: int) -> int:
    """Number of optimizer steps of a run: its epochs, at least one step, cut by `max_steps`.

    Example:
        >>> steps_in(TrainConfig(epochs=0.5), 7), steps_in(TrainConfig(epochs=3, max_steps=10), 7)
        (4, 10)
    """
    steps = max(1, round(train.epochs * steps_per_epoch))
    return min(steps, train.max_steps or steps)
