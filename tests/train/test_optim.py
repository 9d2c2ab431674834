"""Optimizers and schedules against their update rules."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from exptilt.train.optim import OptimConfig, build_optimizer, build_schedule


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.full((2, 2), 2.0))
        self.norm = nn.Parameter(torch.full((2,), 2.0))
        self.frozen = nn.Parameter(torch.full((2, 2), 2.0), requires_grad=False)


def stepped(settings: OptimConfig, gradient: float, times: int = 1) -> Small:
    model = Small()
    optimizer = build_optimizer(settings, model)
    for _ in range(times):
        for parameter in (model.matrix, model.norm):
            parameter.grad = torch.full_like(parameter, gradient)
        optimizer.step()
    return model


def test_adamw_moves_by_the_rate_and_decays_matrices_only():
    """The first step is lr * g / (|g| + eps), whatever g; the matrix also loses lr * decay of itself."""
    model = stepped(OptimConfig(learning_rate=0.1, weight_decay=0.5, eps=1e-12), gradient=3.0)
    assert model.matrix[0, 0].item() == pytest.approx(2 * (1 - 0.1 * 0.5) - 0.1)
    assert model.norm[0].item() == pytest.approx(2 - 0.1)
    assert model.frozen[0, 0].item() == 2


def test_rmsprop_as_in_torch():
    """Square average 0.01 g^2 after one step: g / (0.1 |g|) = 10 rates; after two 0.0199 g^2. No decay anywhere."""
    one = stepped(OptimConfig(name="rmsprop", learning_rate=0.01, weight_decay=0.5, eps=1e-12), gradient=3.0)
    assert one.matrix[0, 0].item() == one.norm[0].item() == pytest.approx(2 - 0.1)
    two = stepped(OptimConfig(name="rmsprop", learning_rate=0.01, eps=1e-12), gradient=3.0, times=2)
    assert two.norm[0].item() == pytest.approx(2 - 0.1 - 0.01 / math.sqrt(0.0199), rel=1e-5)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [0, 1 / 2, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
        ("cosine", [0, 1 / 2] + [(1 + math.cos(math.pi * k / 8)) / 2 for k in range(8)]),
        ("constant", [0, 1 / 2] + [1] * 8),
    ],
)
def test_rates_of_ten_steps_with_two_of_warm_up(schedule, expected):
    settings = OptimConfig(learning_rate=0.4, schedule=schedule, warmup_ratio=0.2)
    optimizer = build_optimizer(settings, Small())
    plan = build_schedule(settings, optimizer, 10)
    rates = []
    for _ in range(10):
        rates.append(plan.get_last_lr()[0])
        optimizer.step()
        plan.step()
    assert rates == pytest.approx([0.4 * share for share in expected], abs=1e-12)


def test_without_warm_up_the_first_step_has_the_peak():
    settings = OptimConfig(learning_rate=0.4, warmup_ratio=0.0)
    assert build_schedule(settings, build_optimizer(settings, Small()), 10).get_last_lr()[0] == 0.4


@pytest.mark.parametrize(
    "wrong", [{"learning_rate": 0.0}, {"beta1": 1.0}, {"warmup_ratio": -0.1}, {"weight_decay": -1.0}, {"eps": 0.0}]
)
def test_values_out_of_range_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        OptimConfig(**wrong)
