"""The batches of a run, with the completions that its objective adds, and the number of steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from exptilt.data.batching import Batches, budget_use, pack, shares
from exptilt.data.groups import Group
from exptilt.data.mixing import TwoOf
from exptilt.data.problems import finding_of
from exptilt.errors import DataError
from exptilt.labels import Preferred
from exptilt.losses import Loss
from exptilt.policies.scorer import MicroBatches
from exptilt.processes.world import World
from exptilt.run_folder.data_record import Finding
from exptilt.settings.data_settings import BatchConfig
from exptilt.settings.training_settings import TrainConfig
from exptilt.training.columns import columns_of
from exptilt.training.objective import Objective
from exptilt.wording import counted

_LARGE_MARGIN = 2.0
"""Log-odds: the largest margin of Llama 2's labels is 1 (3 in a variant), and 2 asks for 88 %."""
_FILL_STEPS = 50
"""Steps over which it is counted how full micro-batches are."""


def batches_for(
    loss: Loss, groups: Sequence[Group], settings: BatchConfig, *, seed: int, world_size: int = 1
) -> Batches:
    """Plan the batches of a run so that each holds what the loss needs in it: two prompts, or both labels."""
    two_of = None if loss.needs_two is None else TwoOf.of(loss.needs_two, groups)
    draw = partial(_torch_order, seed) if settings.order == "torch" else None
    return Batches(groups, settings, seed=seed, world_size=world_size, two_of=two_of, draw=draw)


def _torch_order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The order in which accelerate's sampler gives rows to transformers' Trainer."""
    generator = torch.Generator().manual_seed(seed + epoch)
    return torch.randperm(count, generator=generator).numpy()


def check_batches(
    loss: Loss, train: Sequence[Group], test: Sequence[Group], settings: BatchConfig, epochs: TrainConfig, *, seed: int
) -> tuple[Finding, ...]:
    """Plan every batch of a run without a model: how full they are, and an error where the loss cannot be formed on one.

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
    batches = batches_for(loss, train, settings, seed=seed)
    try:
        for groups in (train, test):
            columns_of(groups, loss, torch.device("cpu"))
    except DataError as error:
        return (finding_of("unformed_batch", str(error), 1),)
    last = batches.epoch(steps_in(epochs, batches.num_steps) - 1)
    short = next((count for epoch in range(last + 1) if (count := batches.short_steps(epoch))), 0)
    findings = [
        *([_short_of_two(loss, TwoOf.of(loss.needs_two, train), batches, short)] if loss.needs_two and short else []),
        *(_held_out_short_of_two(loss, test) if loss.needs_two and test else []),
    ]
    if findings:
        return tuple(findings)
    notes = _large_margins(loss, train)
    if settings.limit is None:
        return tuple(notes)
    first_steps = (batches.step(step) for step in range(min(_FILL_STEPS, batches.num_steps)))
    return (*notes, budget_use(first_steps, settings.limit).finding())


def _large_margins(loss: Loss, groups: Sequence[Group]) -> list[Finding]:
    """Margins that a reward model could only reach by being nearly certain: those of scores from 0 to 10, say."""
    scale = getattr(loss, "margin_scale", 0.0)
    margins = [group.label.margin or 0.0 for group in groups if isinstance(group.label, Preferred)]
    size = scale * math.fsum(map(abs, margins)) / max(1, len(margins))
    if size <= _LARGE_MARGIN:
        return []
    message = (
        f"the margins of the rows, times loss.margin_scale={scale:g}, are {size:.3g} on average, and the loss asks the "
        f"model to prefer the chosen side by more than that (a preference of {1 / (1 + math.exp(-size)):.1%})"
    )
    return [finding_of("large_margin", message, sum(margin != 0 for margin in margins))]


_NEEDS = {
    "prompts": "rows of two prompts, since its reference point scores a completion under the prompt of another row",
    "labels": "a desirable and an undesirable row, since each label has a mean of its own",
}


def _short_of_two(loss: Loss, two_of: TwoOf, batches: Batches, short: int) -> Finding:
    """Why some batches cannot hold what the loss needs, and which batch.size could."""
    size = two_of.least_size
    if size is None:
        return _one_value(loss, two_of, "training")
    unlike = {"prompts": "do not have the most frequent prompt", "labels": "have the rarer label"}[two_of.name]
    message = (
        f"loss {loss.name!r} needs in every batch {_NEEDS[two_of.name]}; only {two_of.num_rare} of {len(two_of.values)} rows "
        f"{unlike}, too few for {batches.num_steps} batches: use batch.size={size} or more"
    )
    return finding_of("unformed_batch", message, short)


def _held_out_short_of_two(loss: Loss, test: Sequence[Group]) -> list[Finding]:
    assert loss.needs_two is not None  # noqa: S101  (the caller looked; tells the type checker)
    two_of = TwoOf.of(loss.needs_two, test)
    return [] if two_of.num_rare else [_one_value(loss, two_of, "held-out")]


def _one_value(loss: Loss, two_of: TwoOf, which: str) -> Finding:
    count = counted(len(two_of.values), "row")
    same = {"prompts": "there is only one prompt", "labels": "all have one label"}[two_of.name]
    more = "; hold out more rows (data.test_fraction), or none" if which == "held-out" else ""
    message = f"loss {loss.name!r} needs {_NEEDS[two_of.name]}; in the {count} of {which} data {same}{more}"
    return finding_of("unformed_batch", message, 1)


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
