"""What is known of single objectives: symmetries, bounds, stationary points, and how they reduce to one another."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from exptilt import losses as L
from exptilt.types import LogProbs, Pair

numbers = st.floats(-60, 60)


def tokens(seed: int, lengths: list[int]) -> LogProbs:
    generator = torch.Generator().manual_seed(seed)
    values = -2 * torch.rand(sum(lengths), generator=generator, dtype=torch.float64) - 0.02
    return LogProbs(values=values, lengths=torch.tensor(lengths))


POLICY = Pair(tokens(0, [3, 5, 2, 6]), tokens(1, [4, 2, 2, 3]))
REFERENCE = Pair(tokens(2, [3, 5, 2, 6]), tokens(3, [4, 2, 2, 3]))


def of(chosen: Any, rejected: Any, length: int = 1) -> Pair:
    """Pairs with these summed log-probabilities."""
    sides = [torch.as_tensor(side, dtype=torch.float64).reshape(-1) for side in (chosen, rejected)]
    return Pair(*(LogProbs.from_sums(side, torch.full((len(side),), length)) for side in sides))


def ratios(chosen: Any, rejected: Any, length: int = 1) -> tuple[Pair, Pair]:
    policy = of(chosen, rejected, length)
    return policy, Pair(*(LogProbs.from_sums(torch.zeros(len(side)), side.lengths) for side in policy))


@given(z=numbers)
@settings(max_examples=50, deadline=None)
def test_dpo_of_z_minus_dpo_of_minus_z_is_minus_z_and_the_gradient_is_beta_sigmoid(z):
    chosen = torch.tensor([z / 0.1], dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(1, dtype=torch.float64)
    policy = Pair(
        LogProbs.from_sums(chosen, torch.ones(1, dtype=torch.int64)),
        LogProbs.from_sums(zero, torch.ones(1, dtype=torch.int64)),
    )
    reference = of(0.0, 0.0)
    forward = L.DPO()(policy, reference).loss
    backward = L.DPO()(Pair(policy.rejected, policy.chosen), reference).loss
    assert (forward - backward).item() == pytest.approx(-z, rel=1e-12, abs=1e-12)
    (gradient,) = torch.autograd.grad(forward.sum(), chosen)
    assert gradient.item() == pytest.approx(-0.1 / (1 + math.exp(z)), rel=1e-12)


@given(z=numbers, eps=st.floats(0, 0.49))
@settings(max_examples=50, deadline=None)
def test_robust_dpo_is_unbiased_for_dpo(z, eps):
    """(1 - eps) L(z) + eps L(-z) = DPO(z): the expectation over flipped labels."""
    robust = L.RobustDPO(beta=1.0, label_smoothing=eps)
    forward, backward = (robust(*ratios(x, 0.0)).loss.item() for x in (z, -z))
    assert (1 - eps) * forward + eps * backward == pytest.approx(
        L.DPO(beta=1.0)(*ratios(z, 0.0)).loss.item(), rel=1e-9, abs=1e-9
    )


def test_robust_dpo_falls_without_bound_with_slope_eps_over_1_minus_2_eps():
    far, farther = (L.RobustDPO(beta=1.0, label_smoothing=0.1)(*ratios(z, 0.0)).loss.item() for z in (1000.0, 1001.0))
    assert far < -100
    assert farther - far == pytest.approx(-0.1 / 0.8, rel=1e-9)


def slope(loss: Any, z: float, **options: Any) -> float:
    """dL/dz at a chosen log-ratio z, rejected 0."""
    chosen = torch.tensor([z], dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, dtype=torch.int64)
    zero = LogProbs.from_sums(torch.zeros(1, dtype=torch.float64), one)
    out = loss(Pair(LogProbs.from_sums(chosen, one), zero), Pair(zero, zero), **options)
    return torch.autograd.grad(out.loss.sum(), chosen)[0].item()


@pytest.mark.parametrize("eps", [0.05, 0.2])
def test_cdpo_and_exo_are_stationary_at_the_log_odds_of_the_smoothing(eps):
    at = math.log((1 - eps) / eps)
    entropy = -eps * math.log(eps) - (1 - eps) * math.log(1 - eps)
    smoothed, exo = L.DPO(beta=1.0, label_smoothing=eps), L.EXO(beta=1.0, label_smoothing=eps)
    assert slope(smoothed, at) == pytest.approx(0, abs=1e-14)
    assert smoothed(*ratios(at, 0.0)).loss.item() == pytest.approx(entropy, rel=1e-12)
    assert slope(exo, at) == pytest.approx(0, abs=1e-14)
    assert exo(*ratios(at, 0.0)).loss.item() == pytest.approx(0, abs=1e-14)
    assert slope(exo, at - 1) < 0 < slope(exo, at + 1)
    assert max(abs(slope(exo, 500.0)), abs(slope(exo, -500.0))) < 1e-100


def test_ipo_is_stationary_at_1_over_2_tau_and_quadratic():
    assert slope(L.IPO(beta=0.25), 2.0) == 0
    assert slope(L.IPO(beta=0.25), 5.0) == 6.0


def test_nca_holds_the_chosen_reward_at_log_2():
    assert slope(L.NCA(beta=0.5), 2 * math.log(2)) == pytest.approx(0, abs=1e-15)
    assert slope(L.NCA(beta=0.5), 1.0) < 0 < slope(L.NCA(beta=0.5), 2.0)


def test_discopop_lowers_the_margin_first_from_the_reference():
    """Slope +0.784 at 0, a local minimum at z = -0.1186 and a local maximum at z = +0.0720 (beta 1, tau 0.05)."""
    loss = L.DiscoPOP(beta=1.0)
    assert slope(loss, 0.0) == pytest.approx(0.784, abs=1e-3)
    assert slope(loss, -0.1187) < 0 < slope(loss, -0.1185)
    assert slope(loss, 0.0719) > 0 > slope(loss, 0.0721)


def test_bdpo_bounds_the_rejected_reward_and_its_gradient():
    policy, reference = ratios([0.0], [-1000.0])
    out = L.BDPO(beta=0.3, lam=0.5)(policy, reference)
    assert out.rejected_reward.item() == pytest.approx(0.3 * math.log(0.5), rel=1e-12)
    assert L.BDPO(beta=0.3, lam=1e-300)(*ratios([2.0], [5.0])).loss.item() == pytest.approx(math.log1p(math.exp(-0.6)))
    rejected = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, dtype=torch.int64)
    zero = LogProbs.from_sums(torch.zeros(1, dtype=torch.float64), one)
    loss = L.BDPO(beta=0.3, lam=0.4)(Pair(zero, LogProbs.from_sums(rejected, one)), Pair(zero, zero)).loss
    assert torch.autograd.grad(loss.sum(), rejected)[0].item() == pytest.approx(0.4 * 0.3 / 2, rel=1e-12)


def test_simpo_depends_on_beta_times_the_mean_and_gamma_only():
    doubled = Pair(*(LogProbs.from_sums(2 * side.sum(), side.lengths) for side in POLICY))
    assert torch.allclose(L.SimPO(beta=4.0)(POLICY).loss, L.SimPO(beta=2.0)(doubled).loss, rtol=1e-13)


def test_orpo_is_antisymmetric_in_the_odds_and_ignores_a_common_reference():
    loss = L.ORPO(lam=1.0)
    forward = loss(POLICY).loss + POLICY.chosen.mean()
    backward = loss(Pair(POLICY.rejected, POLICY.chosen)).loss + POLICY.rejected.mean()
    odds = [side.mean() - torch.log1p(-side.mean().exp()) for side in POLICY]
    assert torch.allclose(forward - backward, -(odds[0] - odds[1]), rtol=1e-12)


def test_orpo_over_prompt_and_completion_by_hand():
    """Two prompts of 1 and 3 counted tokens with -1 and -2 nats, chosen completions of 2 and 1 with -3 and -1."""
    chosen, rejected = torch.tensor([-3.0, -1.0]), torch.tensor([-4.0, -2.0])
    pair = Pair(LogProbs.from_sums(chosen, torch.tensor([2, 1])), LogProbs.from_sums(rejected, torch.tensor([2, 1])))
    prompt = LogProbs.from_sums(torch.tensor([-1.0, -2.0]), torch.tensor([1, 3]))
    for normalization, nll in (("sequence", [4 / 3, 3 / 4]), ("sum", [4.0, 3.0]), ("token", [4 * 2 / 7, 3 * 2 / 7])):
        loss = L.ORPO(lam=0.0, nll_over="all", normalization=normalization)
        assert loss(pair, prompt=prompt).loss.tolist() == pytest.approx(nll)
    # A row of weight 3 is three rows: 4 nats and three times 3, over 3 tokens and three times 4.
    weighted = L.ORPO(lam=0.0, nll_over="all", normalization="token")
    found = weighted(pair, prompt=prompt, weights=torch.tensor([1.0, 3.0])).loss
    assert (found[0] + 3 * found[1]).item() / 4 == pytest.approx((4 + 3 * 3) / (3 + 3 * 4))
    with pytest.raises(ValueError, match="prompt: log-probabilities of 2 prompts are needed, but none were given"):
        loss(pair)


def test_aot_unpaired_does_not_depend_on_which_rejected_stands_beside_which_chosen():
    order = [2, 0, 3, 1]
    shuffled = (Pair(pair.chosen, pair.rejected.select(order)) for pair in (POLICY, REFERENCE))
    loss = L.AOT(paired=False)
    assert loss(*shuffled).loss.mean().item() == pytest.approx(loss(POLICY, REFERENCE).loss.mean().item(), rel=1e-13)


def test_apo_zero_of_pairs_is_twice_the_mean_of_its_unpaired_form():
    both = (LogProbs.cat([pair.chosen, pair.rejected]) for pair in (POLICY, REFERENCE))
    out = L.APOZeroUnpaired(balanced=False)(*both, torch.tensor([True] * 4 + [False] * 4))
    assert L.APOZero()(POLICY, REFERENCE).loss.mean().item() == pytest.approx(2 * out.loss.mean().item(), rel=1e-13)


def test_the_linear_anchor_on_sums_is_dpo_with_negative_label_smoothing():
    """DPO + a * linear = -(1 + a / beta) log s(z) + (a / beta) log s(-z), up to a constant of the reference."""
    a, beta = 0.02, 0.1
    chosen = POLICY.chosen.tokens().clone().requires_grad_()
    policy = Pair(dataclasses.replace(POLICY.chosen, values=chosen), POLICY.rejected)
    z = beta * (policy.chosen.sum() - policy.rejected.sum() - REFERENCE.chosen.sum() + REFERENCE.rejected.sum())
    sp = torch.nn.functional.softplus
    smoothed = torch.autograd.grad(((1 + a / beta) * sp(-z) - (a / beta) * sp(z)).mean(), chosen, retain_graph=True)[0]
    anchored = L.DPO(beta=beta)(policy, REFERENCE).loss + a * L.LinearAnchor(level="sum")(policy, REFERENCE).loss
    assert torch.allclose(torch.autograd.grad(anchored.mean(), chosen)[0], smoothed, rtol=1e-12)


def test_the_log_sum_exp_anchor_on_long_sums_is_nll():
    policy, reference = of([-50.0], [-60.0]), of([-55.0], [-50.0])
    out = L.LogSumExpAnchor(level="sum")(policy, reference).loss
    assert out.item() == pytest.approx(50.0 + 55.0, rel=1e-12)
