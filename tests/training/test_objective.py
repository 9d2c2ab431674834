"""What a loss sees of rows, and what is measured beside it; numbers by hand."""

from __future__ import annotations

import math
import random
import re
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch

from exptilt.data.groups import Completion, Group
from exptilt.errors import ConfigError, DataError, NonFiniteError
from exptilt.labels import Desirable, Preferred, Ranked
from exptilt.losses import (
    AOT,
    BCO,
    DPO,
    IPO,
    KTO,
    ODPO,
    SFT,
    SPPO,
    AnyLoss,
    BCOUnpaired,
    Hinge,
    InfoNCA,
    LiPO,
    RobustDPO,
    SamPO,
)
from exptilt.losses.calls import _COLUMNS, _SCORED
from exptilt.training.columns import _VALUES
from exptilt.training.objective import Objective
from exptilt.types import LogProbs


def row(number: int, *lengths: int, **columns) -> Group:
    """Row `number`, its completions made of the token `number`."""
    completions = tuple(
        Completion(np.full(length, 100 * number + place, np.int32), np.ones(length, bool))
        for place, length in enumerate(lengths)
    )
    return Group(id=f"r:{number}", prompt=np.array([1, number], np.int32), completions=completions, **columns)


def scored(group: Group, *scores: float | None) -> Group:
    """The group with a score of each completion."""
    parts = zip(group.completions, scores, strict=True)
    return replace(group, completions=tuple(replace(part, score=score) for part, score in parts))


def sums(*totals: float, length: int = 2) -> LogProbs:
    """Completions of `length` tokens each, with these log-probabilities."""
    values = torch.tensor(totals, dtype=torch.float64).repeat_interleave(length) / length
    return LogProbs(values=values, lengths=torch.full((len(totals),), length))


def test_rows_weigh_what_they_say():
    """Log-ratio differences 4 and 1 at beta 1 and weights 3 and 1: (3 log(1 + e^-4) + log(1 + e^-1)) / 4."""
    rows = [row(1, 2, 2, weight=3.0), row(2, 2, 2)]
    out = Objective(DPO(beta=1.0))(rows, sums(-8, -14, -9, -12), sums(-10, -12, -10, -12))
    expected = 3 * math.log1p(math.exp(-4)) + math.log1p(math.exp(-1))
    assert out.loss.item() == pytest.approx(expected, rel=1e-12)
    assert out.weight == 4
    means = out.sums.means()
    assert means["loss"] == pytest.approx(expected / 4)
    assert means["rewards/chosen"] == pytest.approx((3 * 2 + 1) / 4)
    assert means["rewards/rejected"] == pytest.approx((3 * -2 + 0) / 4)
    assert means["rewards/margins"] == pytest.approx((3 * 4 + 1) / 4)
    assert means["logps/chosen"] == pytest.approx((3 * -8 - 9) / 4)
    assert means["displacement/rejected"] == pytest.approx((3 * -2 + 0) / 4)
    assert means["lengths/chosen"] == 2


def test_a_mean_per_token_is_over_all_tokens():
    """Chosen of 2 and 8 tokens with -4 and -8: -12 / 10 a token, not the mean of -2 and -1. Tokens with and without
    the two of the prompt again: 2 * (2 + 2) + (2 + 2) + (2 + 8), less the 2 of each prompt that is shared."""
    rows = [row(1, 2, 2), row(2, 8, 2)]
    lengths = torch.tensor([2, 2, 8, 2])
    totals = torch.tensor([-4.0, -2.0, -8.0, -2.0], dtype=torch.float64)
    logps = LogProbs(values=(totals / lengths).repeat_interleave(lengths), lengths=lengths)
    out = Objective(DPO())(rows, logps, logps)
    assert out.sums.means()["logps_per_token/chosen"] == pytest.approx(-1.2)
    assert out.sums.means()["logps/chosen"] == pytest.approx(-6)
    assert out.sums.totals["tokens"][0] == 22
    assert out.sums.totals["unique_tokens"][0] == 18


def test_a_row_whose_margin_hides_it_is_named():
    """The hinge of an infinite margin is zero: the loss is finite, the log-probability is not."""
    with pytest.raises(NonFiniteError, match=r"log-probability of 1 row is not finite.*: r:2"):
        Objective(Hinge())([row(1, 2, 2), row(2, 2, 2)], sums(-1, -2, -1, -math.inf), sums(-1, -2, -1, -2))


def test_a_tie_is_half_right():
    rows = [row(number, 2, 2) for number in range(4)]
    policy = sums(-1, -2, -3, -1, -2, -2, -2, -2)  # right, wrong, tie, tie
    assert Objective(DPO())(rows, policy, sums(*[-2] * 8)).sums.means()["rewards/accuracies"] == 0.5


def test_a_soft_label_mixes_both_orders():
    """p_chosen 3/4 at a difference of 2: 3/4 log(1 + e^-2) + 1/4 log(1 + e^2); the metrics are those of the row as given."""
    rows = [row(1, 2, 2, label=Preferred(p_chosen=0.75)), row(2, 2, 2)]
    out = Objective(DPO(beta=1.0))(rows, sums(-1, -3, -1, -3), sums(-2, -2, -2, -2))
    hard = math.log1p(math.exp(-2))
    assert out.loss.item() == pytest.approx(hard + 0.75 * hard + 0.25 * math.log1p(math.exp(2)), rel=1e-12)
    assert out.sums.means()["rewards/margins"] == pytest.approx(2)


def test_sft_counts_tokens():
    """NLL 6 over 2 tokens with weight 2 and NLL 8 over 2 with weight 1: 20 over 6 tokens."""
    out = Objective(SFT())([row(1, 2, weight=2.0), row(2, 2)], sums(-6, -8), None)
    assert (out.loss.item(), out.weight) == (20, 6)
    assert "displacement" not in out.sums.totals


def test_kto_pairs_are_fixed_by_row_ids_whatever_the_order():
    """Each row gets the completion of the next id with another prompt; the last gets the first's."""
    rows = [row(number, 1 + number % 3) for number in range(5)]
    rows[3] = replace(rows[3], prompt=rows[2].prompt)
    for seed in range(5):
        shuffled = random.Random(seed).sample(rows, 5)
        prepared = {group.id: group for group in Objective(KTO()).prepare(shuffled)}
        assert [group.id for group in Objective(KTO()).prepare(shuffled)] == [group.id for group in shuffled]
        partners = {name: int(group.completions[1].ids[0]) // 100 for name, group in prepared.items()}
        assert partners == {"r:0": 1, "r:1": 2, "r:2": 4, "r:3": 4, "r:4": 0}


def test_a_mismatched_completion_is_cut_to_where_the_rows_fit():
    """The longest row has 2 + 9 tokens; the row with a prompt of 8 takes the first three tokens of a completion of nine."""
    long, short = row(1, 9), replace(row(2, 2), prompt=np.arange(8, dtype=np.int32))
    first, second = Objective(KTO()).prepare([long, short])
    assert len(first.completions[1].ids) == 2
    assert len(second.completions[1].ids) == len(second.completions[1].counted) == 3


def test_kto_over_one_prompt_says_why_it_cannot():
    rows = [replace(row(number, 2), prompt=np.array([1], np.int32)) for number in range(3)]
    with pytest.raises(DataError, match=r"r:0: every row of this batch has the same prompt.*larger batch\.size"):
        Objective(KTO()).prepare(rows)


def test_kto_by_hand():
    """Log-ratios 2 and -1, mismatched ones 1 and 3, so z0 is 2; beta 1: 1/2 for the first, sigmoid(-1 - 2) for the second."""
    rows = [row(1, 2, 2, label=Desirable(True)), row(2, 2, 2, label=Desirable(False))]
    out = Objective(KTO(beta=1.0))(rows, sums(-3, -4, -6, -2), sums(-5, -5, -5, -5))
    assert out.loss.item() == pytest.approx(0.5 + 1 / (1 + math.exp(3)), rel=1e-12)
    means = out.sums.means()
    assert (means["rewards/chosen"], means["rewards/rejected"]) == (2, -1)


def test_ktos_reference_point_counts_rows_by_their_weights():
    """Log-ratios 2 and -1, mismatched ones 1 and 3 at weights 3 and 1, so z0 is 1.5: 3 sigmoid(-0.5) + sigmoid(-2.5) over 4."""
    rows = [row(1, 2, 2, label=Desirable(True), weight=3.0), row(2, 2, 2, label=Desirable(False))]
    out = Objective(KTO(beta=1.0))(rows, sums(-3, -4, -6, -2), sums(-5, -5, -5, -5))
    assert out.loss.item() == pytest.approx(3 / (1 + math.exp(0.5)) + 1 / (1 + math.exp(2.5)), rel=1e-12)
    assert out.weight == 4


def test_rewards_of_labelled_rows_are_weighted_means():
    rows = [
        row(1, 2, label=Desirable(True), weight=3.0),
        row(2, 2, label=Desirable(True)),
        row(3, 2, label=Desirable(False)),
    ]
    means = Objective(BCOUnpaired(beta=1.0))(rows, sums(-4, -8, -5), sums(-5, -5, -5)).sums.means()
    assert means["rewards/chosen"] == (3 * 1 + 1 * -3) / 4
    assert means["rewards/rejected"] == 0


@pytest.mark.parametrize(
    ("loss", "needed"), [(ODPO(), "margin"), (SPPO(), "chosen score"), (InfoNCA(), "scores"), (LiPO(), "scores")]
)
def test_a_column_a_loss_needs_is_asked_for_by_row(loss, needed):
    label = Preferred(margin=1.0) if loss.kind.is_paired else Ranked((1, 2))
    rows = [scored(row(number, 2, 2, label=label), 0.9, 0.1) for number in (1, 2)]
    given = sums(-1, -2, -3, -4)
    Objective(loss)(rows, given, given)
    rows[1] = scored(replace(rows[1], label=replace(label, margin=None) if loss.kind.is_paired else label), None, None)
    with pytest.raises(DataError, match=rf"r:2: loss '{loss.name}' needs {needed} in every row[^;]*; 1 of these rows"):
        Objective(loss)(rows, given, given)


def test_a_list_is_right_where_its_best_has_the_highest_reward():
    """Best of the first list on top, of the second not, of the third one of three tied: (1 + 0 + 1/3) / 3."""
    ranks = [(1, 2), (2, 1), (1, 2, 3)]
    rows = [
        scored(row(number, *[2] * len(rank), label=Ranked(rank)), *[0.5] * len(rank))
        for number, rank in enumerate(ranks)
    ]
    policy, reference = sums(-1, -2, -1, -2, -3, -3, -3), sums(*[-2.0, -2, -2, -2, -3, -3, -3])
    means = Objective(InfoNCA())(rows, policy, reference).sums.means()
    assert means["rewards/accuracies"] == pytest.approx(4 / 9)


def test_running_statistics_move_once_per_step_and_only_when_it_is_taken():
    """Mean rewards 0.3 and 0.1 at beta 0.1: the running mean is 0.3 after one step and 0.2 after two."""
    objective = Objective(BCO(beta=0.1))
    rows = [row(1, 2, 2)]
    for total, mean in [(-2.0, 0.3), (-4.0, 0.2)]:
        before = dict(objective.state)
        for _ in range(3):  # held-out rows, a failed step: nothing is counted
            objective(rows, sums(total, total), sums(-5, -5))
        assert objective.state == before
        objective.advance()
        assert objective.state["mean_reward"] == pytest.approx(mean)
    assert objective.state["num_steps"] == 2


def test_a_state_that_is_given_is_kept():
    assert Objective(SamPO(), state={"num_steps": 7.0}).state == {"num_steps": 7.0}
    assert Objective(SamPO()).state == {"num_steps": 0.0}
    assert Objective(IPO()).state == Objective(AOT()).state == {}


def test_a_margin_within_rounding_is_a_tie():
    """Two sums of 100 nats that differ in the last bit are one; a thousandth of a nat apart they are not."""
    rows = [row(1, 1, 1)]
    reference = LogProbs(values=torch.tensor([-100.0, -100.0]), lengths=torch.tensor([1, 1]))
    accuracies = []
    for moved in (-100.00001, -100.001, -99.999):
        policy = LogProbs(values=torch.tensor([moved, -100.0]), lengths=torch.tensor([1, 1]))
        accuracies.append(Objective(DPO())(rows, policy, reference).sums.means()["rewards/accuracies"])
    assert accuracies == [0.5, 0.0, 1.0]


@pytest.mark.parametrize("loss", [DPO(), Hinge(), RobustDPO()], ids=lambda loss: loss.name)
def test_forming_a_loss_of_sums_never_waits_for_the_device(loss):
    """Tensors on torch's meta device have no numbers: whoever asks for one, as a wait for a GPU would, fails."""
    rows = [row(number, 2, 1) for number in (1, 2)]
    meta = torch.device("meta")
    policy = LogProbs(values=torch.zeros(6), lengths=torch.tensor([2, 1, 2, 1])).sent_to(meta)
    output = Objective(loss).form(rows, policy, policy.part(slice(0, 4), slice(0, 6)))
    assert (output.loss.device, output.losses.shape) == (meta, (2,))
    with pytest.raises(NotImplementedError, match="no data"):
        output.sums.means()


def test_what_is_scored_beside_a_list_is_refused():
    """Rows of a list have any number of completions, so none is known to be the prompt."""

    class Reading(LiPO):
        inputs = ("scores", "prompt")

    with pytest.raises(ConfigError, match="a loss of kind list cannot have scores, prompt, because its rows have any"):
        Objective(Reading())


def test_metrics_are_those_of_the_preferred_side_and_of_neither_in_a_tie():
    """The same pair as given, and exchanged with p_chosen 0; a tie has the mean of both sides on each."""
    row0, policy, reference = row(0, 2, 2, label=Preferred()), sums(-4, -7), sums(-5, -6)
    given = Objective(DPO(beta=0.5))([row0], policy, reference).sums.means()
    turned = replace(row0, completions=row0.completions[::-1], label=Preferred(0.0))
    exchanged = Objective(DPO(beta=0.5))([turned], policy.select([1, 0]), reference.select([1, 0])).sums.means()
    assert exchanged == pytest.approx(given)
    assert given["rewards/margins"] == pytest.approx(1.0)
    tie = replace(row0, label=Preferred(0.5))
    means = Objective(DPO(beta=0.5))([tie], policy, reference).sums.means()
    assert (means["rewards/margins"], means["rewards/accuracies"]) == (0.0, 0.5)
    assert (means["logps/chosen"], means["logps/rejected"]) == (-5.5, -5.5)


class Bare(DPO):
    """As DPO, but for what a test changes; its call takes nothing more."""

    def __call__(self, policy, reference):
        return super().__call__(policy, reference)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"couples_batch": True}, "couples_batch says that it is called with weights, but __call__ does not take that"),
        ({"takes_keys": True}, "takes_keys says that it is called with keys"),
        ({"is_stateful": True}, "is_stateful says that it is called with state"),
        ({"inputs": ("margin",)}, "inputs says that it is called with margin"),
        ({"inputs": ("quality",)}, "inputs: nothing is called 'quality'; there are margin, chosen_score"),
    ],
)
def test_a_loss_that_cannot_be_called_as_it_says_is_refused_at_once(changed, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        Objective(type("Bare", (Bare,), changed)())


def test_a_result_that_is_not_one_loss_a_row_is_named():
    class Mean(DPO):
        def __call__(self, policy, reference):
            out = super().__call__(policy, reference)
            return out._replace(loss=out.loss.mean())

    rows = [row(n, 2, 2, label=Preferred()) for n in range(2)]
    with pytest.raises(ConfigError, match=r"one loss for each row, shape \(2,\), got \(\)"):
        Objective(Mean())(rows, sums(-4, -7, -4, -7), sums(-5, -6, -4, -7))


def test_every_input_a_loss_may_ask_for_has_a_column():
    assert set(_COLUMNS) <= _VALUES.keys()
    assert {name for loss in get_args(AnyLoss) for name in loss().inputs} <= {*_COLUMNS, *_SCORED}
