from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from exptilt.data.groups import Completion, Group
from exptilt.errors import DataError
from exptilt.labels import Desirable, Preferred, Ranked
from exptilt.losses import DPO, KTO, ODPO, SFT, SPPO, XPO, InfoNCA, PlackettLuce
from exptilt.training.columns import columns_of

CPU = torch.device("cpu")


def row(label=None, *, scores=(None, None), versions=(None, None)):
    parts = (
        Completion(np.array([7], np.int32), np.ones(1, bool), score=score, version=version)
        for score, version in zip(scores, versions, strict=True)
    )
    return Group(id="r:1", prompt=np.array([1], np.int32), completions=tuple(parts), label=label)


def listed(groups, loss):
    return {name: column.tolist() for name, column in columns_of(groups, loss, CPU).items()}


def test_each_kind_gets_the_columns_of_its_label():
    assert listed([row(), row(Preferred())], DPO()) == {}
    assert listed([row(Preferred(0.25)), row()], DPO()) == {"p_chosen": [0.25, 1.0]}
    assert listed([row(Preferred(margin=2.0))], ODPO()) == {"margin": [2.0]}
    assert listed([row(Preferred(), scores=(0.75, 0.25))], SPPO()) == {"chosen_score": [0.75], "rejected_score": [0.25]}
    assert listed([row(Desirable(False)), row(Desirable(True))], KTO()) == {
        "desirable": [False, True],
        "weights": [1, 1],
    }
    assert listed([row()], SFT()) == {}
    ranked = listed([row(Ranked((2, 1))), row(Ranked((1, 2)))], PlackettLuce())
    assert ranked == {"sizes": [2, 2], "ranks": [2, 1, 1, 2], "best": [1, 0]}


def test_of_completions_with_scores_alone_the_best_is_the_highest():
    assert listed([row(scores=(0.25, 0.5))], InfoNCA()) == {"sizes": [2], "scores": [0.25, 0.5], "best": [1]}


def test_the_policy_was_sampled_for_the_side_that_has_a_version():
    pairs = [row(Preferred(), versions=(3, None)), row(Preferred(), versions=(None, 3))]
    assert listed(pairs, XPO()) == {"chosen_is_policy": [1.0, 0.0]}


@pytest.mark.parametrize("versions", [(None, None), (3, 4)])
def test_who_sampled_a_pair_is_asked_for_where_it_cannot_be_told(versions):
    with pytest.raises(DataError, match="r:1: loss 'xpo' needs chosen is policy in every row; 1 of these rows"):
        columns_of([row(Preferred(), versions=versions)], XPO(), CPU)


def test_a_row_without_the_label_of_the_kind_is_named():
    with pytest.raises(DataError, match="r:2: loss 'kto' needs desirable in every row; 1 of these rows"):
        columns_of([row(Desirable(True)), replace(row(), id="r:2")], KTO(), CPU)
