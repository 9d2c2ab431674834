"""The rows that a run's reference scores: those that its steps and its report will ask for, and no others."""

from __future__ import annotations

import numpy as np
import pytest

from exptilt.data.groups import Completion, Group
from exptilt.data.prepared import Prepared
from exptilt.labels import Preferred
from exptilt.losses import DPO, ORPO, SFT, Mixture, Term
from exptilt.processes.world import World
from exptilt.run_folder.data_record import DataReport
from exptilt.runs.run_batches import ObjectiveBatches, batches_for
from exptilt.runs.run_models import Setup
from exptilt.runs.run_reference import groups_to_score
from exptilt.settings.data_settings import BatchConfig
from exptilt.training.objective import Objective


def pairs(count: int, name: str) -> list[Group]:
    part = Completion(np.array([3, 4], np.int32), np.ones(2, bool))
    return [
        Group(
            id=f"{name}:{number}", prompt=np.array([number], np.int32), completions=(part, part), label=Preferred(1.0)
        )
        for number in range(count)
    ]


def rows_of(train: list[Group], test: list[Group]) -> Prepared:
    return Prepared(train=train, test=test, report=DataReport())


@pytest.mark.parametrize(("steps", "expected"), [(1, 4), (3, 12), (5, 18), (12, 18)])
def test_rows_of_steps_that_never_run_are_not_scored(steps, expected):
    train, held_out = pairs(18, "train"), pairs(3, "test")
    objective, settings = Objective(DPO()), BatchConfig(size=4, tokens=None)
    batches = ObjectiveBatches(batches_for(DPO(), train, settings, seed=0), objective, None, World.alone())
    assert batches.num_steps == 5
    scored = {group.id for group in groups_to_score(objective, Setup(), rows_of(train, held_out), batches, steps)}
    asked_for = {group.id for step in range(steps) for micro in batches.step(step) for group in micro}
    assert scored == asked_for | {group.id for group in held_out}
    assert len(scored) == expected + 3


def test_a_loss_without_reference_scores_no_training_row():
    train = pairs(8, "train")
    objective, settings = Objective(SFT()), BatchConfig(size=4, tokens=None)
    batches = ObjectiveBatches(batches_for(SFT(), train, settings, seed=0), objective, None, World.alone())
    assert list(groups_to_score(objective, Setup(), rows_of(train, []), batches, 1)) == []


def test_rows_are_scored_with_their_prompts_for_the_steps_and_without_for_the_report():
    """DPO beside an ORPO that reads prompts: the loss asks for three completions a row, the report for two."""
    train, held_out = pairs(8, "train"), pairs(3, "test")
    loss = Mixture(terms=(Term(loss=DPO()), Term(loss=ORPO(nll_over="all"))))
    objective = Objective(loss)
    batches = ObjectiveBatches(
        batches_for(loss, train, BatchConfig(size=4, tokens=None), seed=0), objective, None, World.alone()
    )
    scored = list(groups_to_score(objective, Setup(), rows_of(train, held_out), batches, 2))
    counts = [(group.id.split(":")[0], len(group.completions)) for group in scored]
    assert (counts.count(("test", 2)), counts.count(("test", 3)), counts.count(("train", 3))) == (3, 3, 8)
    assert len(counts) == 14
