from __future__ import annotations

import pytest
import torch

from exptilt.losses import DPO, KTO, SFT, BradleyTerry, PlackettLuce, PlackettLuceReward
from exptilt.losses.calls import arguments_of, call, columns_needed, completions_per_row
from exptilt.types import LogProbs, Pair


def sums(*totals):
    return LogProbs.from_sums(torch.tensor(totals, dtype=torch.float64), torch.full((len(totals),), 2))


def values(*lengths):
    return LogProbs(values=-torch.arange(1.0, 1 + sum(lengths), dtype=torch.float64), lengths=torch.tensor(lengths))


def test_how_many_completions_of_a_row_are_scored():
    losses = (DPO(), SFT(), KTO(), PlackettLuce(), BradleyTerry())
    assert [completions_per_row(loss) for loss in losses] == [2, 1, 2, None, 2]


def test_the_columns_a_loss_is_called_with():
    """Those of the kind first; completions of other rows are no columns."""
    assert [columns_needed(loss) for loss in (DPO(), KTO(), PlackettLuce())] == [(), ("desirable",), ("sizes", "ranks")]


@pytest.mark.parametrize("flat", [sums(-1, -2, -3, -4), values(1, 2, 3, 1)])
def test_a_pair_is_cut_into_sides_whether_units_or_sums_are_known(flat):
    sides = arguments_of(DPO(), flat, flat)
    expected = flat.sum().tolist()
    for pair in (sides.policy, sides.reference):
        assert [side.sum().tolist() for side in pair] == [expected[0::2], expected[1::2]]
    assert (arguments_of(DPO(), flat).reference, sides.further) == (None, {})


def test_each_loss_gives_what_it_gives_when_called_by_hand():
    policy, reference = sums(-1, -2, -3, -5), sums(-2, -2, -2, -2)
    pair = call(DPO(), arguments_of(DPO(), policy, reference), {}).loss
    by_hand = DPO()(Pair(sums(-1, -3), sums(-2, -5)), Pair(sums(-2, -2), sums(-2, -2))).loss
    assert torch.equal(pair, by_hand)
    labels = {"desirable": torch.tensor([True, False])}
    unpaired = call(KTO(), arguments_of(KTO(), policy, reference), labels).loss
    other = {"mismatched": sums(-2, -5), "mismatched_reference": sums(-2, -2)}
    assert torch.equal(unpaired, KTO()(sums(-1, -3), sums(-2, -2), labels["desirable"], **other).loss)
    columns = {"sizes": torch.tensor([2, 2]), "ranks": torch.tensor([1, 2, 2, 1])}
    of_list = call(PlackettLuce(), arguments_of(PlackettLuce(), policy, reference), columns).loss
    assert torch.equal(of_list, PlackettLuce()(policy, reference, columns["sizes"], columns["ranks"]).loss)


def test_rewards_go_to_reward_losses_and_a_belief_mixes_both_orders():
    """0.75 log(1 + e^-1) + 0.25 log(1 + e) for rewards 2 and 1; the rewards are those of the pair as given."""
    rewards = torch.tensor([2.0, 1.0], dtype=torch.float64)
    soft = call(BradleyTerry(), arguments_of(BradleyTerry(), rewards), {"p_chosen": torch.tensor([0.75])})
    assert soft.loss.item() == pytest.approx(0.75 * 0.31326168751822286 + 0.25 * 1.3132616875182228)
    assert (soft.chosen_reward.item(), soft.rejected_reward.item()) == (2, 1)
    columns = {"sizes": torch.tensor([2]), "ranks": torch.tensor([1, 2])}
    ranked = call(PlackettLuceReward(), arguments_of(PlackettLuceReward(), rewards), columns)
    assert ranked.loss.item() == pytest.approx(0.31326168751822286)
