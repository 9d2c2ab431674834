"""Losses with a random draw: SamPO and beta-DPO. The draw is a function of the seed and the step, not of the place in the batch."""

from __future__ import annotations

import math

import pytest
import torch

from exptilt.losses import DPO, BetaDPO, SamPO
from exptilt.types import LogProbs, Pair


def tokens(seed: int, lengths: list[int]) -> LogProbs:
    generator = torch.Generator().manual_seed(seed)
    values = -3 * torch.rand(sum(lengths), generator=generator, dtype=torch.float64)
    return LogProbs(values=values, lengths=torch.tensor(lengths))


WORDS = ([5, 2, 4, 7], [3, 6, 4, 1])
POLICY = Pair(tokens(0, WORDS[0]), tokens(1, WORDS[1]))
REFERENCE = Pair(tokens(2, WORDS[0]), tokens(3, WORDS[1]))


def select(pair: Pair, rows: list[int]) -> Pair:
    return Pair(pair.chosen.select(rows), pair.rejected.select(rows))


def test_sampo_counts_as_many_tokens_as_the_shorter_side_has():
    """With log-ratio 1 on every chosen and 0 on every rejected token, the chosen reward is beta * min(lengths)."""
    ones = Pair(*(LogProbs(values=torch.ones(sum(n)), lengths=torch.tensor(n)) for n in WORDS))
    zeros = Pair(*(LogProbs(values=torch.zeros(sum(n)), lengths=torch.tensor(n)) for n in WORDS))
    for step in range(5):
        out = SamPO(beta=0.5)(ones, zeros, state={"num_steps": float(step)})
        assert out.chosen_reward.tolist() == [1.5, 1.0, 2.0, 0.5]
        assert out.rejected_reward.tolist() == [1.5, 1.0, 2.0, 0.5]


def test_sampo_is_dpo_where_lengths_are_equal_and_on_the_shorter_side_always():
    full = DPO()(POLICY, REFERENCE)
    out = SamPO()(POLICY, REFERENCE)
    assert out.loss[2].item() == pytest.approx(full.loss[2].item(), rel=1e-14)
    assert out.rejected_reward[[0, 3]].tolist() == pytest.approx(full.rejected_reward[[0, 3]].tolist())
    assert out.chosen_reward[1].item() == pytest.approx(full.chosen_reward[1].item())


def test_sampo_draws_every_token_equally_often():
    """Over 1500 steps the mean sampled log-ratio of m of n tokens is m/n of the whole, within 5 standard errors."""
    loss = SamPO(beta=1.0)
    seen = torch.stack([loss(POLICY, REFERENCE, state={"num_steps": float(s)}).chosen_reward for s in range(1500)])
    whole = POLICY.chosen.sum() - REFERENCE.chosen.sum()
    for row, share in ((0, 3 / 5), (3, 1 / 7)):
        error = seen[:, row].std().item() / math.sqrt(1500)
        assert abs(seen[:, row].mean().item() - share * whole[row].item()) < 5 * error
        assert len(seen[:, row].unique()) in (10, 7)  # C(5, 3) and C(7, 1) subsets, all of them drawn


def test_sampo_does_not_depend_on_the_place_in_the_batch_and_changes_with_step_and_seed():
    whole = SamPO()(POLICY, REFERENCE).loss
    for rows in ([3], [1, 0], [2, 3, 0, 1]):
        assert torch.equal(SamPO()(select(POLICY, rows), select(REFERENCE, rows)).loss, whole[rows])
    state = SamPO().next_state(SamPO().initial_state(), POLICY, REFERENCE)
    assert not torch.equal(SamPO()(POLICY, REFERENCE, state=state).loss, whole)
    assert not torch.equal(SamPO(seed=1)(POLICY, REFERENCE).loss, whole)


def test_sampo_is_log_2_at_the_reference_only_with_a_shared_draw():
    shared = SamPO()(POLICY, POLICY).loss
    assert shared.tolist() == pytest.approx([math.log(2)] * 4)
    apart = SamPO(share_draw=False)(POLICY, POLICY).loss
    assert abs(apart[3].item() - math.log(2)) > 1e-3


def sums(values: torch.Tensor) -> LogProbs:
    return LogProbs.from_sums(values.double(), torch.full((len(values),), 5))


def gaps(values: list[float]) -> tuple[Pair, Pair]:
    """Pairs with these log-ratio differences."""
    zero = sums(torch.zeros(len(values)))
    return Pair(sums(torch.tensor(values)), zero), Pair(zero, zero)


def test_beta_dpo_leaves_out_a_fifth_and_the_mean_is_over_the_rest():
    policy, reference = gaps([float(g) for g in range(10)])
    out = BetaDPO(alpha=0.0)(policy, reference)
    kept = out.loss > 0
    assert int(kept.sum()) == 8
    expected = DPO()(policy, reference).loss[kept].mean()
    assert out.loss.mean().item() == pytest.approx(expected.item(), rel=1e-14)


def test_beta_dpo_by_hand_over_two_steps():
    """Decay 0.9 from 0. Step 1, gaps 1 and 3: mean 2, std sqrt 2, M = 0.2, beta 0.1 * (1 + 0.6 * (2 - 0.2)) = 0.208."""
    loss = BetaDPO(filter=0.0)
    policy, reference = gaps([1.0, 3.0])
    out = loss(policy, reference, state=loss.initial_state())
    assert out.loss.tolist() == pytest.approx([math.log1p(math.exp(-0.208)), math.log1p(math.exp(-0.624))], rel=1e-12)
    state = loss.next_state(loss.initial_state(), policy, reference)
    assert state == pytest.approx({"mean_gap": 0.2, "std_gap": 0.1 * math.sqrt(2), "num_steps": 1.0})
    policy, reference = gaps([-40.0, -40.0])
    out = loss(policy, reference, state=state)  # M = 0.18 - 4, beta 0.1 * (1 + 0.6 * (-36.18)) < 0, so the floor 0.001
    assert out.loss.tolist() == pytest.approx([math.log1p(math.exp(0.04))] * 2, rel=1e-12)


def test_beta_dpo_leaves_out_far_pairs_more_often():
    """M and S as after many steps; a pair 6 S away has weight e^-18 and is never kept, the others fill the batch."""
    policy, reference = gaps([0.0, 0.1, -0.1, 0.2, 6.0])
    state = {"mean_gap": 0.0, "std_gap": 1.0, "num_steps": 0.0}
    loss = BetaDPO(momentum=0.999)
    for step in range(200):
        state["num_steps"] = float(step)
        kept = loss(policy, reference, state=state).loss > 0
        assert kept.tolist() == [True, True, True, True, False]


def test_beta_dpo_keeps_the_same_pairs_in_any_order_of_the_batch():
    policy, reference = gaps([float(g) for g in range(10)])
    whole = BetaDPO(filter=0.5)(policy, reference).loss
    order = [3, 7, 1, 9, 0, 8, 2, 6, 4, 5]
    assert torch.equal(BetaDPO(filter=0.5)(select(policy, order), select(reference, order)).loss, whole[order])


def test_beta_dpo_without_filter_and_alpha_is_dpo_and_works_on_one_pair():
    assert torch.allclose(BetaDPO(filter=0.0, alpha=0.0)(POLICY, REFERENCE).loss, DPO()(POLICY, REFERENCE).loss)
    policy, reference = gaps([2.0])
    assert BetaDPO(alpha=0.0)(policy, reference).loss.item() == pytest.approx(math.log1p(math.exp(-0.2)))
