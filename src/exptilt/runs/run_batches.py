"""The batches of a run as its objective wants them scored, and how many steps they make."""

from __future__ import annotations

from dataclasses import dataclass

from exptilt.data.batching import Batches, pack, shares
from exptilt.data.groups import Group
from exptilt.policies.scorer import MicroBatches
from exptilt.processes.world import World
from exptilt.settings.training_settings import TrainConfig
from exptilt.training.objective import Objective


@dataclass(frozen=True)
class ObjectiveBatches:
    """Batches with the completions an objective adds: KTO scores a completion of another row beside each."""

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
        """This process's micro-batches of one step."""
        return shares(self._micro_batches(step), self.world.size)[self.world.rank]

    def groups(self, num_steps: int) -> list[Group]:
        """Everything that all processes will score in a run of `num_steps`; repetitions included."""
        return [group for step in range(num_steps) for groups in self._micro_batches(step) for group in groups]

    def _micro_batches(self, step: int) -> list[list[Group]]:
        return pack(self.objective.prepare(self.batches.groups(step)), self.tokens)


def steps_in(train: TrainConfig, steps_per_epoch: int) -> int:
    """Optimizer steps of a run: its epochs, at least one step, cut by `max_steps`.

    Example:
        >>> steps_in(TrainConfig(epochs=0.5), 7), steps_in(TrainConfig(epochs=3, max_steps=10), 7)
        (4, 10)
    """
    steps = max(1, round(train.epochs * steps_per_epoch))
    return min(steps, train.max_steps or steps)
