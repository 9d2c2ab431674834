"""Optimizers and schedules against their update rules."""

from __future__ import annotations

import copy
import math
import sys
import types

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import get_scheduler

from exptilt.errors import ConfigError, ModelError
from exptilt.settings.training_settings import OptimConfig
from exptilt.training.optim import build_optimizer, build_schedule, parameter_groups


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
    one = stepped(OptimConfig(name="rmsprop", learning_rate=0.01, eps=1e-12), gradient=3.0)
    assert one.matrix[0, 0].item() == one.norm[0].item() == pytest.approx(2 - 0.1)
    two = stepped(OptimConfig(name="rmsprop", learning_rate=0.01, eps=1e-12), gradient=3.0, times=2)
    assert two.norm[0].item() == pytest.approx(2 - 0.1 - 0.01 / math.sqrt(0.0199), rel=1e-5)


def test_norms_and_biases_never_decay_whatever_their_shape():
    """One norm per head is a matrix; an embedding and the factors of an adapter decay, a frozen weight is in no group."""

    class HeadNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, 4))

    model = nn.ModuleDict(
        {"words": nn.Embedding(5, 4), "norm": HeadNorm(), "out": nn.Linear(4, 3), "frozen": nn.Linear(2, 2, bias=False)}
    )
    model["frozen"].requires_grad_(False)
    decaying, spared = parameter_groups(model, 0.1)
    assert (decaying["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert [tuple(one.shape) for one in decaying["params"]] == [(5, 4), (3, 4)]
    assert [tuple(one.shape) for one in spared["params"]] == [(2, 4), (3,)]
    assert len(parameter_groups(nn.Linear(2, 2, bias=False), 0.1)) == 1


def test_adafactor_is_that_of_transformers():
    """With the rate from outside; matrices, vectors and stacks of matrices over five steps, decay included."""
    from transformers.optimization import Adafactor

    def weights() -> list[nn.Parameter]:
        torch.manual_seed(0)
        return [nn.Parameter(torch.randn(shape)) for shape in [(6, 4), (5,), (3, 6, 4)]]

    model = nn.ParameterList(weights())
    settings = OptimConfig(name="adafactor", learning_rate=0.01, weight_decay=0.0)
    mine, theirs = build_optimizer(settings, model), weights()
    for group in mine.param_groups:
        group["weight_decay"] = 0.1
    fixed = {"scale_parameter": False, "relative_step": False, "warmup_init": False}
    other = Adafactor(theirs, lr=0.01, weight_decay=0.1, **fixed)
    for step in range(5):
        for one, its in zip(model, theirs, strict=True):
            one.grad = (step + 1) * torch.randn(one.shape)
            its.grad = one.grad.clone()
        mine.step()
        other.step()
    for one, its in zip(model, theirs, strict=True):
        torch.testing.assert_close(one, its, atol=2e-6, rtol=0)


def test_adafactor_keeps_little_and_goes_on_from_its_state():
    models = [nn.Linear(8, 6, bias=False) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    settings = OptimConfig(name="adafactor", learning_rate=0.01)
    first, second = (build_optimizer(settings, model) for model in models)

    def move(optimizer, model, seed):
        model.weight.grad = torch.randn(6, 8, generator=torch.Generator().manual_seed(seed))
        optimizer.step()

    for seed in range(3):
        move(first, models[0], seed)
    assert (
        sum(value.numel() for state in first.state.values() for value in state.values() if torch.is_tensor(value)) == 14
    )
    models[1].load_state_dict(models[0].state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for optimizer, model in ((first, models[0]), (second, models[1])):
        move(optimizer, model, 9)
    assert torch.equal(models[0].weight, models[1].weight)


@pytest.fixture
def one_process():
    """A process group of one, for weights that are sharded over it."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.mark.parametrize("name", ["adamw", "adafactor", "rmsprop"])
def test_sharded_weights_move_as_whole_ones(one_process, name):
    ends = []
    for sharded in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 6), nn.LayerNorm(6), nn.Linear(6, 4))
        if sharded:
            fully_shard(model, mesh=one_process)
        decay = 0.0 if name == "rmsprop" else 0.1
        optimizer = build_optimizer(OptimConfig(name=name, learning_rate=0.01, weight_decay=decay), model)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.arange(16.0).view(2, 8)).square().sum().backward()
            optimizer.step()
        ends.append([one.full_tensor() if isinstance(one, DTensor) else one for one in model.parameters()])
    for whole, parts in zip(*ends, strict=True):
        torch.testing.assert_close(whole, parts, atol=1e-6, rtol=0)


def test_eight_bits_need_their_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(ConfigError, match=r"adamw_8bit needs bitsandbytes: pip install 'exptilt\[qlora\]'"):
        build_optimizer(OptimConfig(name="adamw_8bit"), Small())


def test_eight_bits_get_both_groups_and_no_shards(monkeypatch, one_process):
    made = []

    def optimizer(groups, **settings):
        made.append(([(len(group["params"]), group["weight_decay"]) for group in groups], settings))

    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", types.SimpleNamespace(AdamW8bit=optimizer))
    settings = OptimConfig(name="adamw_8bit", learning_rate=0.1, weight_decay=0.5)
    build_optimizer(settings, Small())
    assert made == [([(1, 0.5), (1, 0.0)], {"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8})]
    sharded = nn.Linear(4, 4)
    fully_shard(sharded, mesh=one_process)
    with pytest.raises(ConfigError, match="cannot work on sharded weights"):
        build_optimizer(settings, sharded)


def test_eight_bits_move_almost_as_thirty_two():
    """A matrix of 16,384 weights, whose state is kept in eight bits; after ten steps of 1e-3 it is within one of them."""
    pytest.importorskip("bitsandbytes", reason="the extra `qlora` is not installed")
    ends = []
    for name in ("adamw", "adamw_8bit"):
        torch.manual_seed(0)
        model = nn.Linear(128, 128, bias=False)
        optimizer = build_optimizer(OptimConfig(name=name, learning_rate=1e-3, weight_decay=0.1), model)
        start = model.weight.detach().clone()
        for _ in range(10):
            optimizer.zero_grad()
            model(torch.randn(8, 128)).square().mean().backward()
            optimizer.step()
        ends.append(model.weight.detach())
        assert float((ends[-1] - start).abs().mean()) > 2e-3
        kept = next(iter(optimizer.state.values()))
    assert kept["state1"].dtype == torch.uint8
    assert float((ends[0] - ends[1]).abs().mean()) < 3e-4


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [1 / 3, 2 / 3, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
        ("cosine", [1 / 3, 2 / 3] + [(1 + math.cos(math.pi * k / 8)) / 2 for k in range(8)]),
        ("constant", [1 / 3, 2 / 3] + [1] * 8),
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


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 18])
@pytest.mark.parametrize("warmup_ratio", [0.0, 0.1, 0.5, 0.99])
def test_no_step_has_rate_zero(schedule, num_steps, warmup_ratio):
    settings = OptimConfig(learning_rate=0.4, schedule=schedule, warmup_ratio=warmup_ratio)
    optimizer = build_optimizer(settings, Small())
    plan = build_schedule(settings, optimizer, num_steps)
    for _ in range(num_steps):
        assert plan.get_last_lr()[0] > 1e-4
        optimizer.step()
        plan.step()


def test_a_model_with_nothing_to_train_is_refused():
    with pytest.raises(ModelError, match="all are frozen"):
        build_optimizer(OptimConfig(), Small().requires_grad_(False))


def test_without_warm_up_the_first_step_has_the_peak():
    settings = OptimConfig(learning_rate=0.4, warmup_ratio=0.0)
    assert build_schedule(settings, build_optimizer(settings, Small()), 10).get_last_lr()[0] == 0.4


_OF_TRANSFORMERS = {
    "linear": {},
    "cosine": {},
    "constant": {},
    "cosine_with_restarts": {"num_cycles": 2},
    "cosine_with_min_lr": {"min_lr_rate": 0.2},
    "cosine_warmup_with_min_lr": {"min_lr": 0.01, "warmup_lr_rate": 0.1},
    "polynomial": {"power": 2.0, "lr_end": 1e-3},
    "inverse_sqrt": {"timescale": 7},
    "warmup_stable_decay": {"num_decay_steps": 4, "min_lr_ratio": 0.1},
}


def _rates(plan, optimizer, count):
    rates = []
    for _ in range(count):
        rates.append(plan.get_last_lr()[0])
        optimizer.step()
        plan.step()
    return rates


@pytest.mark.parametrize("warmup", [{"warmup_steps": 0}, {"warmup_steps": 3}, {"warmup_ratio": 0.21}])
@pytest.mark.parametrize("schedule", _OF_TRANSFORMERS)
def test_from_zero_every_rate_is_that_of_transformers(schedule, warmup):
    arguments = _OF_TRANSFORMERS[schedule]
    settings = OptimConfig(
        learning_rate=0.4, schedule=schedule, schedule_args=arguments, warmup_from_zero=True, **warmup
    )
    ours, theirs = (build_optimizer(settings, Small()) for _ in range(2))
    steps = warmup.get("warmup_steps", 3)  # a share of 11 steps is rounded up
    name = "constant_with_warmup" if schedule == "constant" else schedule
    expected = _rates(get_scheduler(name, theirs, steps, 11, dict(arguments)), theirs, 11)
    assert _rates(build_schedule(settings, ours, 11), ours, 11) == pytest.approx(expected, abs=1e-15)
    assert len(set(expected)) > 3 or name == "constant_with_warmup"


@pytest.mark.parametrize("schedule", _OF_TRANSFORMERS)
def test_without_it_the_warm_up_is_ours_and_what_follows_is_the_same(schedule):
    arguments = _OF_TRANSFORMERS[schedule]
    settings = OptimConfig(learning_rate=0.4, schedule=schedule, schedule_args=arguments, warmup_steps=3)
    ours, theirs = (build_optimizer(settings, Small()) for _ in range(2))
    name = "constant_with_warmup" if schedule == "constant" else schedule
    expected = _rates(get_scheduler(name, theirs, 3, 11, dict(arguments)), theirs, 11)
    rates = _rates(build_schedule(settings, ours, 11), ours, 11)
    assert rates == pytest.approx([0.1, 0.2, 0.3, *expected[3:]], abs=1e-15)


@pytest.mark.parametrize(
    ("schedule", "arguments", "words"),
    [("polynomial", {"powr": 2}, "powr"), ("warmup_stable_decay", {}, "num_decay_steps")],
)
def test_settings_that_a_schedule_lacks_are_one_line(schedule, arguments, words):
    settings = OptimConfig(schedule=schedule, schedule_args=arguments)
    with pytest.raises(ConfigError, match=rf"^optim\.schedule_args: .*{words}.*schedule={schedule}"):
        build_schedule(settings, build_optimizer(settings, Small()), 11)


@pytest.mark.parametrize(
    "wrong",
    [
        {"warmup_steps": -1},
        {"schedule": "linear", "schedule_args": {"power": 2}},
        {"learning_rate": 0.0},
        {"beta1": 1.0},
        {"warmup_ratio": -0.1},
        {"weight_decay": -1.0},
        {"eps": 0.0},
        {"name": "rmsprop", "weight_decay": 0.1},
    ],
)
def test_values_out_of_range_are_named(wrong):
    with pytest.raises(ValueError, match=list(wrong)[-1]):
        OptimConfig(**wrong)
