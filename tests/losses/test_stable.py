"""Elementary functions against 50-digit references, where the textbook forms fail."""

from __future__ import annotations

import pytest
import torch
from mpmath import mp, mpf

from exptilt.losses.stable import expm1_with_linear_tail, log_odds, log_one_minus_exp

POINTS = [-1e4, -200.0, -20.0, -0.7, -0.6931471, -0.69, -1e-2, -1e-4, -2e-7]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_one_minus_exp_and_log_odds(dtype):
    x = torch.tensor(POINTS, dtype=dtype, requires_grad=True)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-13
    for function, exact, scale in (
        (log_one_minus_exp, lambda a: mp.log1p(-mp.exp(a)), 0),
        (log_odds, lambda a: a - mp.log1p(-mp.exp(a)), 1),  # crosses zero, so its error is on the scale of its terms
    ):
        out = function(x)
        (gradient,) = torch.autograd.grad(out.sum(), x)
        for value, slope, point in zip(out.tolist(), gradient.tolist(), x.tolist(), strict=True):
            assert abs(value - exact(mpf(point))) <= tolerance * (abs(exact(mpf(point))) + scale) + 1e-30
            assert abs(slope - mp.diff(exact, mpf(point))) <= tolerance * abs(mp.diff(exact, mpf(point))) + 1e-30


@pytest.mark.parametrize("at", [0.0, -1e-9, -3e-8])
def test_log_odds_stays_finite_where_a_probability_rounds_to_one(at):
    x = torch.tensor([at], requires_grad=True)
    (gradient,) = torch.autograd.grad(log_odds(x).sum(), x)
    assert log_odds(x).item() == pytest.approx(16.118, abs=1e-3)  # log(1e7)
    assert bool(gradient.isfinite())


def test_expm1_with_linear_tail_is_exact_below_and_its_tangent_above_the_limit():
    x = torch.tensor([-1e4, -1.0, 1e-12, 30.0, 60.0, 61.0, 100.0], dtype=torch.float64, requires_grad=True)
    out = expm1_with_linear_tail(x)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    top = mp.exp(60)
    expected = [*(mp.expm1(mpf(v)) for v in x.tolist()[:5]), top - 1 + top, top - 1 + 40 * top]
    for value, wanted in zip(out.tolist(), expected, strict=True):
        assert abs(value - wanted) <= 1e-13 * abs(wanted)
    assert gradient[-1].item() == pytest.approx(float(top), rel=1e-14)
    far = torch.tensor([1e4], requires_grad=True)
    assert bool(expm1_with_linear_tail(far).isfinite())
