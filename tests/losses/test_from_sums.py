"""Every loss on pairs as a function of four columns of sums, and one line where sums do not determine it."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch.nn.functional import logsigmoid

from exptilt import losses as L
from exptilt.types import LogProbs, Pair

CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED = (
    torch.tensor(sums, dtype=torch.float64)
    for sums in ([-8.0, -3.0, -7.5], [-14.0, -3.5, -7.0], [-10.0, -4.0, -6.0], [-12.0, -3.0, -9.0])
)
SUMS = (CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED)
PAIRWISE = [loss for cls in get_args(L.AnyLoss) if (loss := cls()).kind.is_paired]
INPUTS = {
    "margin": torch.tensor([0.5, 1.5, 2.0]),
    "chosen_score": torch.tensor([0.9, 0.8, 0.7]),
    "rejected_score": torch.tensor([0.1, 0.3, 0.5]),
    "chosen_is_policy": torch.tensor([True, False, False]),
}


def test_dpo_is_the_formula_of_the_paper_in_value_and_gradient():
    leaves = [side.clone().requires_grad_() for side in SUMS]
    out = L.DPO(beta=0.3).from_sums(*leaves)
    z = 0.3 * ((CHOSEN - REJECTED) - (REF_CHOSEN - REF_REJECTED))
    assert torch.allclose(out.loss, -logsigmoid(z), rtol=1e-14)
    slopes = torch.autograd.grad(out.loss.sum(), leaves)
    for slope, sign in zip(slopes, (-1, 1, 1, -1), strict=True):
        assert torch.allclose(slope, sign * 0.3 * torch.sigmoid(-z), rtol=1e-13)


@pytest.mark.parametrize("loss", PAIRWISE, ids=lambda loss: loss.name)
def test_every_loss_on_pairs_takes_sums_or_says_in_one_line_what_it_needs(loss):
    inputs = {name: INPUTS[name] for name in loss.inputs}
    if loss.sums_suffice and not loss.needs_lengths:
        lengths = torch.tensor([3, 7, 2])
        sides = [LogProbs.from_sums(sums, lengths) for sums in SUMS]
        expected = loss(Pair(*sides[:2]), Pair(*sides[2:]) if loss.needs_reference else None, **inputs)
        assert torch.equal(loss.from_sums(*SUMS, **inputs).loss, expected.loss)
    else:
        word = "lengths" if loss.sums_suffice else "tokens"
        with pytest.raises(ValueError, match=rf"^from_sums: {loss.name} needs {word}; call it with .*") as caught:
            loss.from_sums(*SUMS, **inputs)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 300


def test_settings_that_need_no_lengths_take_sums():
    assert torch.allclose(L.NLL(normalization="sum").from_sums(CHOSEN, REJECTED).loss, -CHOSEN)
    contrast = L.CPO(nll_weight=0.0, beta=0.1).from_sums(CHOSEN, REJECTED).loss
    assert torch.allclose(contrast, -logsigmoid(0.1 * (CHOSEN - REJECTED)))
    squares = (CHOSEN - REF_CHOSEN - 5) ** 2 + (REJECTED - REF_REJECTED + 5) ** 2
    assert torch.allclose(L.CalAnchor(beta=0.1, level="sum").from_sums(*SUMS).loss, squares)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: L.DPO().from_sums(CHOSEN, REJECTED), "ref_chosen and ref_rejected missing: dpo compares"),
        (lambda: L.DPO().from_sums(CHOSEN, REJECTED[:2], *SUMS[2:]), r"rejected must have shape \(B,\).* got \(2,\)"),
        (lambda: L.DPO().from_sums(CHOSEN, REJECTED, CHOSEN[:, None], CHOSEN), r"ref_chosen must have shape .* got \(3, 1\)"),
        (lambda: L.KTO().from_sums(*SUMS), "kto is of kind unpaired, not a loss on pairs"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_gradient_of_the_log_sum_exp_anchor_is_the_softmax_of_its_two_terms():
    """d/ds of log(e^-(s_w + r_w) + e^(s_l + r_l)) is (-p_w, p_l) with (p_w, p_l) the softmax of the exponents."""
    chosen, rejected = CHOSEN.clone().requires_grad_(), REJECTED.clone().requires_grad_()
    loss = L.LogSumExpAnchor(level="sum").from_sums(chosen, rejected, -CHOSEN + 0.5, -REJECTED - 1.0).loss
    share = torch.softmax(torch.stack([torch.full((3,), -0.5), torch.full((3,), -1.0)]), dim=0).double()
    of_chosen, of_rejected = torch.autograd.grad(loss.sum(), (chosen, rejected))
    assert torch.allclose(of_chosen, -share[0], rtol=1e-6)
    assert torch.allclose(of_rejected, share[1], rtol=1e-6)
    assert torch.allclose(of_rejected - of_chosen, torch.ones(3, dtype=torch.float64), rtol=1e-13)


def test_dr_dpo_weighs_pairs_by_the_softmax_of_minus_their_loss():
    leaves = [side.clone().requires_grad_() for side in SUMS[:2]]
    single = L.DPO(beta=0.3).from_sums(*leaves, *SUMS[2:]).loss
    robust = L.DrDPO(beta=0.3, temperature=0.5).from_sums(*leaves, *SUMS[2:]).loss.mean()
    weights = torch.softmax(-single.detach() / 0.5, dim=0)
    expected = torch.autograd.grad((weights * single).sum(), leaves)
    for found, wanted in zip(torch.autograd.grad(robust, leaves), expected, strict=True):
        assert torch.allclose(found, wanted, rtol=1e-12)
    assert robust.item() < single.mean().item()
    nearly = L.DrDPO(beta=0.3, temperature=1e6).from_sums(*SUMS).loss.mean()
    assert nearly.item() == pytest.approx(single.mean().item(), rel=1e-5)
