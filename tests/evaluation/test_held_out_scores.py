from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from exptilt.data.groups import Completion, Group
from exptilt.evaluation.held_out import Wanted
from exptilt.evaluation.held_out_scores import ScoredPairs, measure_reward_model
from exptilt.evaluation.pairs.accuracy import score_accuracy
from exptilt.labels import Preferred, Ranked
from exptilt.losses import BradleyTerry
from exptilt.policies.reward_scorer import scores_of_groups
from exptilt.settings.evaluation_settings import EvaluateConfig

WANTED = Wanted.of(BradleyTerry(), EvaluateConfig(), 1000, 0)


def row(name, label, *lengths, prompt=(5, 6)):
    completions = [
        Completion(np.full(length, 7 + at, np.int32), np.ones(length, bool)) for at, length in enumerate(lengths)
    ]
    return Group(id=name, prompt=np.array(prompt, np.int32), completions=tuple(completions), label=label)


def model_that(score):
    """A reward model whose head is set; everything else is random."""
    torch.manual_seed(0)
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForSequenceClassification(LlamaConfig(vocab_size=23, num_labels=1, pad_token_id=0, **shape)).eval()
    score(model.score.weight.data)
    return model


def test_pairs_are_the_better_one_first_and_ties_are_none():
    rows = [
        row("a:1", Preferred(), 2, 3),
        row("a:2", Preferred(p_chosen=0.2), 2, 5),
        row("a:3", Preferred(p_chosen=0.5), 1, 1),
        row("a:4", Ranked((2, 1, 1)), 1, 2, 3),
    ]
    scores = [np.array([1.0, 0.0]), np.array([3.0, 2.0]), np.array([9.0, 9.0]), np.array([0.5, 1.0, 0.2])]
    pairs = ScoredPairs.of(rows, scores)
    assert [group.id for group in pairs.groups] == ["a:1", "a:2", "a:4 2>1", "a:4 3>1"]
    assert pairs.chosen.tolist() == [1.0, 2.0, 1.0, 0.2]
    assert pairs.rejected.tolist() == [0.0, 3.0, 0.5, 0.5]
    assert pairs.num_ties == 2
    assert [side.tolist() for side in pairs.lengths] == [[2, 5, 2, 3], [3, 2, 1, 1]]


def test_accuracy_counts_ties_of_scores_half_and_stands_beside_length():
    found = score_accuracy([2.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0], np.array([1, -1, 2, 0]), list("abcd"))
    assert found.accuracy["reward_model/score"].value == pytest.approx((1 + 0 + 0.5 + 1) / 4)
    assert found.longest_wins.value == pytest.approx((1 + 0 + 1 + 0.5) / 4)
    assert {part.name: part.num_pairs for part in found.by_longer} == {
        "chosen longer": 2, "rejected longer": 1, "equal length": 1
    }  # fmt: skip


def test_what_is_measured_is_made_of_the_models_scores():
    model = model_that(lambda weight: weight.normal_(std=2.0))
    rows = [row(f"a:{n}", Preferred(), 1 + n % 4, 1 + n % 3, prompt=(3 + n % 9, 4)) for n in range(24)]
    found = measure_reward_model(model, rows, WANTED)
    scores = torch.stack(scores_of_groups(model, rows))
    margin = (scores[:, 0] - scores[:, 1]).numpy()
    evaluation = found.evaluation
    assert evaluation.accuracy["reward_model"]["score"].value == pytest.approx(
        float(((np.sign(margin) + 1) / 2).mean())
    )
    # Rows of one prompt count together, so the mean is over pairs all the same.
    assert evaluation.log_loss.value == pytest.approx(float(np.log1p(np.exp(-margin)).mean()))
    assert [one.score for one in found.margins] == pytest.approx(margin.tolist())
    assert evaluation.scores.spread == pytest.approx(float(scores.max() - scores.min()))
    assert (sum(evaluation.scores.chosen), sum(evaluation.scores.rejected), sum(evaluation.margins.counts)) == (
        24,
        24,
        24,
    )
    assert evaluation.calibration.null_band is not None
    assert (evaluation.kl, evaluation.num_ties, found.samples) == (None, 0, ())


def test_a_constant_model_knows_nothing():
    found = measure_reward_model(model_that(lambda weight: weight.zero_()), [row("a:1", Preferred(), 2, 3)] * 4, WANTED)
    evaluation = found.evaluation
    assert (evaluation.scores.spread, evaluation.accuracy["reward_model"]["score"].value) == (0.0, 0.5)
    assert evaluation.log_loss.value == pytest.approx(math.log(2))


def test_rows_of_ties_alone_are_counted_and_nothing_is_measured():
    found = measure_reward_model(model_that(lambda weight: None), [row("a:1", Ranked((1, 1, 1)), 1, 2, 3)], WANTED)
    assert (found.evaluation.num_pairs, found.evaluation.num_ties, found.margins) == (0, 3, ())
