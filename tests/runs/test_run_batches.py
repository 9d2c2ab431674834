"""Batches that serve the objective: planned so that it can be formed on each, or said beforehand that it cannot be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from exptilt.data.groups import Completion, Group
from exptilt.labels import Desirable
from exptilt.losses import DPO, KTO, APOZeroUnpaired, BCOUnpaired
from exptilt.runs.run_batches import batches_for, check_batches
from exptilt.settings.data_settings import BatchConfig
from exptilt.settings.training_settings import TrainConfig
from exptilt.training.objective import Objective


def rows(count: int, *, prompts: int = 1000, undesirable: int = 0) -> list[Group]:
    """Rated completions: the last ones are undesirable, and prompts come round."""
    part = Completion(np.array([3, 4], np.int32), np.ones(2, bool))
    return [
        Group(
            id=f"r:{number:03d}",
            prompt=np.array([number % prompts], np.int32),
            completions=(part,),
            label=Desirable(number < count - undesirable),
        )
        for number in range(count)
    ]


def check(loss: Any, train: list[Group], test: list[Group], size: int, epochs: float = 3.0) -> list[str]:
    found = check_batches(loss, train, test, BatchConfig(size=size, tokens=None), TrainConfig(epochs=epochs), seed=0)
    assert all(finding.severity == "error" for finding in found)
    return [finding.message for finding in found]


@pytest.mark.parametrize("count", [8, 9, 10, 17])
def test_kto_takes_any_number_of_rows(count):
    train = rows(count, undesirable=3)
    assert check(KTO(), train, [], size=4) == []
    batches, objective = batches_for(KTO(), train, BatchConfig(size=4), seed=0), Objective(KTO())
    for step in range(2 * batches.num_steps):
        for group in objective.prepare(batches.groups(step)):
            assert len(group.completions) == 2


@pytest.mark.parametrize("shuffle", [True, False])
def test_batches_of_a_balanced_loss_hold_both_labels(shuffle):
    """Six undesirable rows at the end of sixty, for six batches."""
    train = rows(60, undesirable=6)
    settings = BatchConfig(size=10, shuffle=shuffle, tokens=None)
    assert check_batches(APOZeroUnpaired(), train, [], settings, TrainConfig(epochs=4), seed=0) == ()
    batches = batches_for(APOZeroUnpaired(), train, settings, seed=0)
    for step in range(4 * batches.num_steps):
        assert sum(not group.label.desirable for group in batches.groups(step)) == 1


def test_what_cannot_be_is_said_with_the_batch_size_that_could():
    (said,) = check(APOZeroUnpaired(), rows(60, undesirable=5), [], size=10)
    assert said == (
        "loss 'apo_zero_unpaired' needs in every batch a desirable and an undesirable row, since each label has a mean of "
        "its own; only 5 of 60 rows have the rarer label, too few for 6 batches: use batch.size=12 or more"
    )
    assert check(APOZeroUnpaired(), rows(60, undesirable=5), [], size=12) == []
    (said,) = check(KTO(), [*rows(9, prompts=1), *rows(1, prompts=2)], [], size=4)
    assert "only 0 of" not in said
    assert check(KTO(), rows(4), [], size=1)[0].endswith("too few for 4 batches: use batch.size=2 or more")


def test_data_of_one_value_are_named_and_so_are_held_out_rows():
    (said,) = check(KTO(), rows(9, prompts=1), [], size=4)
    assert said.endswith("in the 9 rows of training data there is only one prompt")
    (said,) = check(APOZeroUnpaired(), rows(9), [], size=4)
    assert said.endswith("in the 9 rows of training data all have one label")
    (said,) = check(APOZeroUnpaired(), rows(9, undesirable=4), rows(1), size=9)
    assert said.endswith(
        "in the 1 row of held-out data all have one label; hold out more rows (data.test_fraction), or none"
    )


def test_losses_that_need_no_second_value_are_left_alone():
    for loss in (BCOUnpaired(), APOZeroUnpaired(balanced=False)):
        assert check(loss, rows(9, prompts=1), rows(1), size=4) == []
    assert DPO().needs_two is None
    assert replace(APOZeroUnpaired(), balanced=True).needs_two == "labels"
