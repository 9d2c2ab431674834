from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from exptilt.errors import NonFiniteError
from exptilt.losses import BradleyTerry, PlackettLuceReward
from exptilt.training.objective import Objective
from exptilt.types import LogProbs


def scored(*scores: float) -> LogProbs:
    return LogProbs(values=torch.tensor(scores), lengths=torch.ones(len(scores), dtype=torch.int64))


def test_metrics_of_pairs_are_sums_over_rows_and_completions(draw_rows):
    rows = draw_rows("reward", num=2)
    means = Objective(BradleyTerry(margin_scale=0.0))(rows, scored(2.0, 1.0, 0.0, 3.0), None).sums.means()
    first, second = (row.weight for row in rows)
    total = first + second
    assert means["accuracy"] == pytest.approx(first / total)
    assert means["margin"] == pytest.approx((first * 1.0 - second * 3.0) / total)
    assert means["mean_reward"] == pytest.approx((first * 3.0 + second * 3.0) / (2 * total))
    assert means["spread"] == pytest.approx((first * 1.0 + second * 3.0) / total)
    assert means["rewards/chosen"] == pytest.approx(first * 2.0 / total)
    loss = [torch.nn.functional.softplus(torch.tensor(-gap)).item() for gap in (1.0, -3.0)]
    assert means["loss"] == pytest.approx((first * loss[0] + second * loss[1]) / total, rel=1e-6)
    assert not [name for name in means if name.startswith(("logps", "lengths", "displacement"))]


def test_margins_of_rows_are_scaled_and_a_row_without_one_has_none(draw_rows):
    rows = draw_rows("reward", num=2)
    rows[1] = replace(rows[1], label=replace(rows[1].label, margin=None), weight=0.0)
    gap = 1.0 - 0.5 * rows[0].label.margin
    found = Objective(BradleyTerry(margin_scale=0.5))(rows, scored(2.0, 1.0, 0.0, 3.0), None)
    assert found.sums.means()["loss"] == pytest.approx(
        torch.nn.functional.softplus(torch.tensor(-gap)).item(), rel=1e-6
    )
    assert found.losses[1] == pytest.approx(torch.nn.functional.softplus(torch.tensor(3.0)).item(), rel=1e-6)


def test_of_a_list_the_best_stands_against_the_mean_of_the_others(draw_rows):
    (row,) = draw_rows("reward_list", num=1)
    scores = [4.0, 1.0, 2.0]
    means = Objective(PlackettLuceReward())([row], scored(*scores), None).sums.means()
    best = row.label.best
    others = [score for place, score in enumerate(scores) if place != best]
    assert means["margin"] == pytest.approx(scores[best] - sum(others) / 2)
    assert means["accuracy"] == float(scores[best] == 4.0)
    assert (means["mean_reward"], means["spread"]) == pytest.approx((7 / 3, 3.0))


def test_a_score_that_is_not_finite_is_named_as_one(draw_rows):
    rows = draw_rows("reward", num=2)
    with pytest.raises(NonFiniteError, match=r"the score of 1 row is not finite, no weight was moved: rows\.jsonl:2\."):
        Objective(BradleyTerry())(rows, scored(2.0, 1.0, float("nan"), 3.0), None)
