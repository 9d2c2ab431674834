"""Losses on single completions against their formulas: SFT, KTO, APO-zero unpaired, BCO unpaired."""

from __future__ import annotations

import pytest
import torch
from mpmath import mp, mpf

from exptilt.losses import KTO, SFT, APOZeroUnpaired, BCOUnpaired
from exptilt.types import LogProbs

S = mp.fsum
GOOD = [True, False, False, True, False]
DESIRABLE = {"desirable": torch.tensor(GOOD)}


def sg(x):
    return 1 / (1 + mp.exp(-x))


def ratios(t, key="y"):
    return [S(y) - S(r) for y, r in zip(t[key], t["r" + key], strict=True)]


def kto(t, frozen, good=1, bad=1):
    beta = mpf(0.1)
    z0 = max(0, S(ratios(frozen, "m")) / len(frozen["m"]))
    signs = zip(ratios(t), GOOD, strict=True)
    return [good * (1 - sg(beta * (ratio - z0))) if ok else bad * (1 - sg(beta * (z0 - ratio))) for ratio, ok in signs]


def apo(t, frozen):
    terms = [1 - sg(mpf(0.1) * x) if ok else sg(mpf(0.1) * x) for x, ok in zip(ratios(t), GOOD, strict=True)]
    return [x * (mpf(5) / 2 if ok else mpf(5) / 3) for x, ok in zip(terms, GOOD, strict=True)]


def apo_over_all_rows(t, frozen):
    return [1 - sg(mpf(0.1) * x) if ok else sg(mpf(0.1) * x) for x, ok in zip(ratios(t), GOOD, strict=True)]


def bco(t, frozen):
    delta = mpf(0.1) * S(ratios(frozen)) / len(GOOD)
    signed = [(1 if ok else -1) * (mpf(0.1) * x - delta) for x, ok in zip(ratios(t), GOOD, strict=True)]
    return [mp.log1p(mp.exp(-x)) for x in signed]


CASES = [
    (SFT(normalization="sequence"), lambda t, f: [-S(y) / len(y) for y in t["y"]], {}),
    (SFT(normalization="sum"), lambda t, f: [-S(y) for y in t["y"]], {}),
    (KTO(), kto, DESIRABLE),
    (
        KTO(desirable_weight=1.3, undesirable_weight=0.7),
        lambda t, f: kto(t, f, good=mpf(1.3), bad=mpf(0.7)),
        DESIRABLE,
    ),
    (APOZeroUnpaired(), apo, DESIRABLE),
    (APOZeroUnpaired(balanced=False), apo_over_all_rows, DESIRABLE),
    (BCOUnpaired(), bco, DESIRABLE),
]
NAMES = [f"{case[0].name}-{place}" for place, case in enumerate(CASES)]


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("loss", "formula", "inputs"), CASES, ids=NAMES)
def test_value_and_gradient_equal_the_formula_to_1e_12(loss, formula, inputs, seed, same_as, draw):
    tokens = draw(seed, y=[3, 1, 4, 2, 2], m=[2, 3])
    same_as(loss, formula, tokens if loss.name == "kto" else _without_mismatched(tokens), inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("loss", "formula", "inputs"), CASES, ids=NAMES)
def test_log_ratios_of_1e4_and_means_of_minus_200(loss, formula, inputs, dtype, extreme):
    per_token = (-200.0, 200.0, 1.0, 200.0, -200.0)
    tokens = {
        "y": [[-1.0 + min(r, 0.0)] * 50 for r in per_token],
        "ry": [[-1.0 - max(r, 0.0)] * 50 for r in per_token],
        "m": [[-1.0] * 50],
        "rm": [[-3.0] * 50],
    }
    extreme(loss, formula, tokens if loss.name == "kto" else _without_mismatched(tokens), inputs, dtype)


def _without_mismatched(tokens):
    return {name: value for name, value in tokens.items() if name not in ("m", "rm")}


def test_token_mean_sft_is_the_sum_of_nll_over_the_sum_of_tokens_however_it_is_split(same_as, draw):
    """Weights are lengths, so accumulating sum(weight * loss) and sum(weight) over any split is exact."""
    tokens = draw(5, y=[3, 1, 4, 2, 2])
    total = S([S(y) for y in tokens["y"]])
    logps = LogProbs(
        values=torch.tensor([x for y in tokens["y"] for x in y], dtype=torch.float64),
        lengths=torch.tensor([3, 1, 4, 2, 2]),
    )
    for split in ([[0, 1, 2, 3, 4]], [[0], [1, 2], [3, 4]], [[4], [3], [2], [1], [0]]):
        outs = [SFT()(logps.select(part)) for part in split]
        loss = sum((out.loss * out.weight).sum().item() for out in outs) / sum(out.weight.sum().item() for out in outs)
        assert loss == pytest.approx(float(-total / 12), rel=1e-14)


def test_kto_by_hand():
    """z0 = (3 - 1) / 2 = 1; desirable l = 1: 1 - s(0) = 1/2; undesirable l = 1 + ln(3)/beta: 1 - s(-ln 3) = 3/4."""

    def logps(*totals: float) -> LogProbs:
        return LogProbs.from_sums(torch.tensor(totals, dtype=torch.float64), torch.tensor([9] * len(totals)))

    import math

    loss = KTO(beta=0.5)(
        logps(-4.0, -4.0 + 2 * math.log(3)), logps(-5.0, -5.0), torch.tensor([True, False]),
        mismatched=logps(-7.0, -9.0), mismatched_reference=logps(-10.0, -8.0),
    ).loss  # fmt: skip
    assert loss.tolist() == pytest.approx([0.5, 0.75], rel=1e-14)


def test_kto_with_a_negative_estimate_is_apo_zero_and_the_mismatched_completions_have_no_gradient():
    torch.manual_seed(0)
    policy = LogProbs.from_sums(-10 * torch.rand(4, dtype=torch.float64), torch.tensor([5] * 4))
    reference = LogProbs.from_sums(-10 * torch.rand(4, dtype=torch.float64), torch.tensor([5] * 4))
    below = torch.full((2,), -9.0, dtype=torch.float64, requires_grad=True)
    mismatched = LogProbs.from_sums(below, torch.tensor([5, 5]))
    higher = LogProbs.from_sums(torch.tensor([-8.0, -8.5], dtype=torch.float64), torch.tensor([5, 5]))
    good = torch.tensor([True, True, False, False])
    loss = KTO()(policy, reference, good, mismatched, higher).loss
    assert torch.equal(loss, APOZeroUnpaired(balanced=False)(policy, reference, good).loss)
    assert not loss.requires_grad


def test_kto_is_bounded_and_its_gradient_saturates_at_both_ends():
    """0 <= loss <= w and |gradient| <= w * beta / 4, with equality at l = z0."""
    ratio = torch.linspace(-500, 500, 1001, dtype=torch.float64, requires_grad=True)
    zeros = torch.zeros(1001, dtype=torch.float64)
    lengths = torch.ones(1001, dtype=torch.int64)
    none = LogProbs.from_sums(zeros, lengths)
    for good in (True, False):
        labels = torch.full((1001,), good)
        loss = KTO(beta=0.2, desirable_weight=2.0, undesirable_weight=2.0)(
            LogProbs.from_sums(ratio, lengths), none, labels, mismatched=none, mismatched_reference=none
        ).loss
        (gradient,) = torch.autograd.grad(loss.sum(), ratio)
        assert 0 <= loss.min().item() <= loss.max().item() <= 2
        assert gradient.abs().max().item() == pytest.approx(0.1, rel=1e-12)
        assert gradient.abs()[[0, -1]].max().item() < 1e-40


def test_bco_running_mean_over_three_steps_by_hand():
    """Batch means of the rewards 1, 4, 1 (beta 1): the mean after each step is 1, 2.5, 2."""
    loss = BCOUnpaired(beta=1.0)
    state = loss.initial_state()
    zero = LogProbs.from_sums(torch.zeros(2, dtype=torch.float64), torch.tensor([1, 1]))
    seen = []
    for total in (1.0, 4.0, 1.0):
        policy = LogProbs.from_sums(torch.tensor([total - 1, total + 1], dtype=torch.float64), torch.tensor([1, 1]))
        out = loss(policy, zero, torch.tensor([True, True]), state=state)
        state = loss.next_state(state, policy, zero)
        seen.append(state["mean_reward"])
        expected = torch.nn.functional.softplus(state["mean_reward"] - out.reward)
        assert torch.allclose(out.loss, expected, rtol=1e-14)
    assert seen == [1.0, 2.5, 2.0]
    assert state["num_steps"] == 3.0
