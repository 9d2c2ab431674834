"""Properties of the whole catalogue: shapes, needs, splits, values at the reference, shift invariance, reductions."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from exptilt import losses as L
from exptilt.types import LogProbs, Pair

LOSSES = [cls() for cls in get_args(L.AnyLoss)]
PAIRWISE = [loss for loss in LOSSES if loss.kind.is_paired]
LENGTHS = ([3, 5, 2, 6], [4, 2, 2, 3])


def tokens(seed: int, lengths: list[int]) -> LogProbs:
    generator = torch.Generator().manual_seed(seed)

    def values() -> Tensor:
        return torch.rand(sum(lengths), generator=generator, dtype=torch.float64) + 0.02

    return LogProbs(
        values=-2 * values(),
        lengths=torch.tensor(lengths),
        divergence=values(),
        log_sum_squares=-values(),
        entropy=values(),
        kl=values(),
    )


POLICY = Pair(tokens(0, LENGTHS[0]), tokens(1, LENGTHS[1]))
REFERENCE = Pair(tokens(2, LENGTHS[0]), tokens(3, LENGTHS[1]))
INPUTS = {
    "margin": torch.tensor([0.5, 1.5, 2.0, 0.25]),
    "chosen_score": torch.tensor([0.9, 0.8, 0.7, 1.0]),
    "rejected_score": torch.tensor([0.1, 0.3, 0.5, 0.0]),
    "chosen_is_policy": torch.tensor([True, False, False, True]),
    "desirable": torch.tensor([True, False, False, True]),
    "ranks": torch.tensor([1, 2, 2, 1]),
    "scores": torch.tensor([2.0, 0.5, 0.0, 1.0]),
    "sizes": torch.tensor([2, 2]),
    "behaviour": -torch.linspace(0.1, 2.0, 16),
    "advantages": torch.linspace(-1.0, 1.0, 16),
    "mismatched": tokens(4, [3, 4]),
    "mismatched_reference": tokens(5, [3, 4]),
}


def run(loss: Any, policy: Any = POLICY, reference: Any = REFERENCE, **changed: Any) -> Any:
    """Any loss of the catalogue; those on single completions and lists see the chosen side."""
    names = (*loss.kind.columns, *loss.inputs)
    inputs = {**INPUTS, **changed}
    if not loss.kind.is_paired:
        policy, reference = policy.chosen, None if reference is None else reference.chosen
    return loss(policy, reference if loss.needs_reference else None, **{name: inputs[name] for name in names})


def of(chosen: Any, rejected: Any, length: int = 1) -> Pair:
    """Pairs with these summed log-probabilities."""
    sides = [torch.as_tensor(side, dtype=torch.float64).reshape(-1) for side in (chosen, rejected)]
    return Pair(*(LogProbs.from_sums(side, torch.full((len(side),), length)) for side in sides))


def ratios(chosen: Any, rejected: Any, length: int = 1) -> tuple[Pair, Pair]:
    policy = of(chosen, rejected, length)
    return policy, Pair(*(LogProbs.from_sums(torch.zeros(len(side)), side.lengths) for side in policy))


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_a_result_has_one_finite_loss_per_example_and_detached_rewards(loss):
    leaves = {name: getattr(POLICY.chosen, name).clone().requires_grad_() for name in ("values", *loss.byproducts)}
    policy = Pair(dataclasses.replace(POLICY.chosen, **leaves), POLICY.rejected)
    out = run(loss, policy)
    assert out.loss.shape == ((2,) if "sizes" in loss.kind.columns else (4,))
    assert bool(out.loss.isfinite().all())
    assert out.loss.requires_grad
    rewards = (out.chosen_reward, out.rejected_reward) if loss.kind.is_paired else (out.reward,)
    assert all(reward.shape == (4,) and not reward.requires_grad for reward in rewards)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_a_loss_is_frozen_equal_by_value_and_says_what_it_needs(loss):
    with pytest.raises(dataclasses.FrozenInstanceError):
        loss.name = "other"
    assert loss == type(loss)()
    assert hash(loss) == hash(type(loss)())
    if not loss.needs_tokens:  # sums and lengths are then enough

        def bare(logps):
            return LogProbs.from_sums(logps.sum(), logps.lengths)

        policy, reference = (Pair(*(bare(side) for side in pair)) for pair in (POLICY, REFERENCE))
        assert torch.allclose(run(loss, policy, reference).loss, run(loss).loss, rtol=1e-12)


@pytest.mark.parametrize("loss", [loss for loss in PAIRWISE if not loss.couples_batch], ids=lambda loss: loss.name)
def test_a_loss_that_does_not_couple_the_batch_may_see_it_in_pieces_and_in_any_order(loss):
    whole = run(loss).loss
    for rows in ([0], [3, 1], [2, 0, 3]):
        part = {name: value[rows] for name, value in INPUTS.items() if isinstance(value, Tensor) and len(value) == 4}
        policy, reference = (Pair(*(side.select(rows) for side in pair)) for pair in (POLICY, REFERENCE))
        assert torch.allclose(run(loss, policy, reference, **part).loss, whole[rows], rtol=1e-13)


@pytest.mark.parametrize("loss", PAIRWISE, ids=lambda loss: loss.name)
def test_the_mean_does_not_depend_on_the_order_of_the_batch(loss):
    rows = [2, 0, 3, 1]
    part = {name: value[rows] for name, value in INPUTS.items() if isinstance(value, Tensor) and len(value) == 4}
    policy, reference = (Pair(*(side.select(rows) for side in pair)) for pair in (POLICY, REFERENCE))
    assert run(loss, policy, reference, **part).loss.mean().item() == pytest.approx(
        run(loss).loss.mean().item(), rel=1e-13
    )


AT_REFERENCE = {
    "dpo": math.log(2), "robust_dpo": math.log(2), "ipo": 25.0, "hinge": 1.0, "f_dpo": math.log(2), "nca": 2 * math.log(2),
    "bco": 2 * math.log(2), "sppo_hard": 5e5, "cal_dpo": math.log(2) + 5e5, "cal_hinge_dpo": math.log(2),
    "bdpo": math.log(2), "dpop": math.log(2), "length_normalized_dpo": math.log(2), "ld_dpo": math.log(2),
    "sampo": math.log(2), "beta_dpo": math.log(2), "aot": math.log(2), "apo_zero": 1.0, "apo_down": 1.0,
    "discopop": (math.log(2) + 1) / 2, "anchor_reference_hinge": 0.0, "anchor_cal": 2.0,
    "chi_po": math.log(2), "dr_dpo": math.log(2), "anchor_mdpo": math.log(2),
    "kto": 0.5, "apo_zero_unpaired": 1.0, "bco_unpaired": math.log(2),
}  # fmt: skip


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss.name in AT_REFERENCE], ids=lambda loss: loss.name)
def test_value_where_policy_and_reference_agree(loss):
    same = {"mismatched_reference": INPUTS["mismatched"]}
    assert run(loss, POLICY, POLICY, **same).loss.mean().item() == pytest.approx(AT_REFERENCE[loss.name], rel=1e-12)


def test_value_at_the_reference_of_those_with_further_inputs():
    none = {
        side: dataclasses.replace(getattr(POLICY, side), divergence=torch.zeros_like(getattr(POLICY, side).tokens()))
        for side in POLICY._fields
    }
    still = Pair(**none)
    for loss in (L.TDPO1(), L.TDPO2()):
        assert loss(still, POLICY).loss.tolist() == pytest.approx([math.log(2)] * 4)
    out = L.XPO(alpha=0.5)(POLICY, POLICY, chosen_is_policy=torch.tensor([True] * 4))
    assert torch.allclose(out.loss, math.log(2) + 0.5 * POLICY.rejected.sum())
    longer = torch.tensor(LENGTHS[0]) - torch.tensor(LENGTHS[1])
    assert torch.allclose(L.RDPO(alpha=0.1)(POLICY, POLICY).loss, torch.nn.functional.softplus(-0.1 * longer.double()))


SHIFT_INVARIANT = {"dpo", "robust_dpo", "ipo", "hinge", "exo", "discopop", "r_dpo", "xpo", "odpo", "beta_dpo"}
SHIFT_VARIANT = {
    "nca",
    "sppo",
    "sppo_hard",
    "cal_dpo",
    "cal_hinge_dpo",
    "bdpo",
    "dpop",
    "f_dpo",
    "apo_zero",
    "apo_down",
}


@pytest.mark.parametrize(
    "loss", [loss for loss in PAIRWISE if loss.name in SHIFT_INVARIANT | SHIFT_VARIANT], ids=lambda x: x.name
)
def test_adding_one_number_to_both_log_ratios_changes_nothing_exactly_where_it_should(loss):
    """f(x) on both sides is the freedom of a Bradley-Terry reward; losses on absolute rewards must feel it."""
    sums = torch.tensor([-4.0, 3.0, -2.0, 1.0]), torch.tensor([1.0, 2.0, -6.0, -1.0])
    policy, reference = ratios(*sums)
    shifted, _ = ratios(*(side + 2.5 for side in sums))
    before = run(loss, policy, reference).loss
    term = loss.alpha * 2.5 if loss.name == "xpo" else 0.0  # XPO's own term is a log-probability
    same = torch.allclose(before + term, run(loss, shifted, reference).loss, rtol=1e-9)
    assert same == (loss.name in SHIFT_INVARIANT)


DPO_ITSELF = [
    L.DPOP(beta=0.1, lam=0.0), L.RDPO(alpha=0.0), L.ODPO(alpha=0.0), L.LDDPO(alpha=1.0), L.TDPO2(alpha=0.0), L.XPO(alpha=0.0),
    L.BetaDPO(alpha=0.0, filter=0.0), L.BDPO(lam=1.0), L.FDPO(divergence="reverse_kl"), L.CalHingeDPO(alpha=0.0),
    L.Mixture(terms=(L.Term(loss=L.DPO()),)), L.Mixture(terms=(L.Term(loss=L.DPO()), L.Term(loss=L.NLL(), weight=0.0))),
]  # fmt: skip


@pytest.mark.parametrize("loss", DPO_ITSELF, ids=lambda loss: loss.name)
def test_reductions_to_dpo(loss):
    assert torch.allclose(run(loss).loss, L.DPO()(POLICY, REFERENCE).loss, rtol=1e-12)


@pytest.mark.parametrize(
    "loss", [L.RDPO(alpha=0.3), L.LDDPO(alpha=0.3), L.SamPO(), L.LengthNormalizedDPO(beta=0.4)], ids=lambda x: x.name
)
def test_reductions_to_dpo_at_equal_lengths(loss):
    policy, reference = (Pair(tokens(seed, [4, 4]), tokens(seed + 1, [4, 4])) for seed in (6, 8))
    assert torch.allclose(loss(policy, reference).loss, L.DPO()(policy, reference).loss, rtol=1e-12)


def test_further_reductions():
    assert torch.allclose(
        L.CPO(nll_weight=0.0)(POLICY).loss, L.DPO()(*ratios(POLICY.chosen.sum(), POLICY.rejected.sum())).loss
    )
    means = ratios(POLICY.chosen.mean(), POLICY.rejected.mean())
    assert torch.allclose(L.SimPO(gamma=0.0)(POLICY).loss, L.DPO(beta=2.0)(*means).loss)
    assert torch.allclose(L.AlphaPO(alpha=1e-9, beta=2.0, gamma=1.0)(POLICY).loss, L.SimPO()(POLICY).loss, rtol=1e-6)
    nearly = L.FDPO(divergence="alpha", alpha=1e-9)(POLICY, REFERENCE).loss
    assert torch.allclose(nearly, L.DPO()(POLICY, REFERENCE).loss, rtol=1e-6)
    nearly = L.FDPO(divergence="alpha", alpha=1 - 1e-9)(POLICY, REFERENCE).loss
    assert torch.allclose(nearly, L.FDPO(divergence="forward_kl")(POLICY, REFERENCE).loss, rtol=1e-6)
    single = Pair(*(side.select([1]) for side in POLICY)), Pair(*(side.select([1]) for side in REFERENCE))
    for paired in (True, False):
        assert torch.allclose(L.AOT(beta=0.1, paired=paired)(*single).loss, L.DPO()(*single).loss, rtol=1e-12)
    on_policy = Pair(*(dataclasses.replace(side, log_sum_squares=side.tokens()) for side in POLICY))
    assert torch.allclose(L.WPO(beta=0.1)(on_policy, REFERENCE).loss, L.DPO()(POLICY, REFERENCE).loss, rtol=1e-12)
    scaled = ratios(
        0.3 * (POLICY.chosen.sum() - REFERENCE.chosen.sum()), 0.3 * (POLICY.rejected.sum() - REFERENCE.rejected.sum())
    )
    assert torch.allclose(L.DPO(beta=0.3)(POLICY, REFERENCE).loss, L.DPO(beta=1.0)(*scaled).loss, rtol=1e-12)
    assert torch.allclose(
        L.CalAnchor(beta=0.2, level="sum")(POLICY, REFERENCE).loss, L.SPPOHard(beta=0.2)(POLICY, REFERENCE).loss
    )
    assert torch.allclose(L.TDPO2(alpha=1.0)(POLICY, REFERENCE).loss, L.TDPO1()(POLICY, REFERENCE).loss)
