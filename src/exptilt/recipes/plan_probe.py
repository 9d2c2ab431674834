"""What a step costs on this machine, measured before a run: steps of the same model with one and with three blocks.

Seconds of a micro-batch are linear in its tokens, and a token's in the number of blocks, so three small steps of the real
engine, on rows of the run, give those of the whole model: `a + (b + c L) tokens`. Noise is kept down by the fastest of
several turns.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig

from exptilt.data.groups import Group
from exptilt.errors import ModelError
from exptilt.policies.adapters import AdapterConfig, with_adapter
from exptilt.policies.forward import packable
from exptilt.policies.inside import set_precision
from exptilt.policies.policy import Policy
from exptilt.policies.scoring import score
from exptilt.recipes.budget import scored_now
from exptilt.recipes.memory import free_memory
from exptilt.recipes.plan_model import ModelSize, shortened
from exptilt.recipes.plan_work import Load
from exptilt.train.objective import Objective
from exptilt.train.optim import OptimConfig, build_optimizer
from exptilt.train.step import accumulate

_AUTO: Any = AutoModelForCausalLM
"""Untyped in transformers."""
_TURNS = 5
"""Of which the first warms up."""
_DEEP = 3
"""Blocks of the deeper twin, at most the model's own: what a block costs is a difference, and three keep its noise small."""

_LAUNCH = 0.7e-3
"""Seconds a GPU needs at least for a block's forward and backward, however small: some hundred kernels; assumed."""

Clock = Callable[[], float]


@dataclass(frozen=True)
class Line:
    """Seconds of a micro-batch, by its tokens."""

    start: float
    token: float

    def seconds(self, tokens: float, micro_batches: float) -> float:
        """Of so many tokens in so many micro-batches."""
        return micro_batches * self.start + tokens * self.token


@dataclass(frozen=True)
class Costs:
    """Measured here, for the whole model."""

    step: Line
    """Forward, loss and backward."""
    forward: Line
    """Scoring without a graph."""
    update: float
    """Seconds of clipping and the optimizer, for each trained weight."""
    reading: float = 0.0
    """Seconds to read all weights once, which no drawn token can beat."""

    @classmethod
    def of_rates(cls, step: float, forward: float, update: float, reading: float, layers: int) -> Costs:
        """From seconds of a token, where nothing is measured; a GPU also needs time to be told what to do."""
        return cls(Line(layers * _LAUNCH, step), Line(layers * _LAUNCH / 3, forward), update, reading)

    def shared(self, devices: int) -> Costs:
        """The same work on so many devices; the optimizer's step is made by each."""
        lines = [Line(line.start / devices, line.token / devices) for line in (self.step, self.forward)]
        return Costs(lines[0], lines[1], self.update, self.reading)

    def drawing(self, rows: int, new_tokens: int) -> float:
        """Seconds to draw so many tokens for each of so many rows at once."""
        return new_tokens * max(self.forward.seconds(rows, 1), self.reading) if rows else 0.0


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is probed."""

    architecture: PreTrainedConfig
    adapter: AdapterConfig | None
    weights: torch.dtype
    products: torch.dtype
    device: torch.device
    checkpointing: bool
    optimizer: OptimConfig
    objective: Objective

    def twin(self, layers: int) -> Any:
        """The model with so many blocks and random weights, ready to train."""
        with torch.random.fork_rng(devices=[]):
            model = _AUTO.from_config(shortened(self.architecture, layers), dtype=self.weights).to(self.device)
            if self.adapter is not None:
                model = with_adapter(model, AdapterConfig(**{**vars(self.adapter), "path": None}))
        packable(model)
        set_precision(model, self.products)
        if self.checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        return model.train()


_FLOPS = 6e10
"""Operations of the larger probe step on a CPU: about a second."""
_GPU_SIZES = (2048, 8192)


def measured_costs(
    subject: Subject, groups: Sequence[Group], size: ModelSize, clock: Clock = time.perf_counter
) -> Costs:
    """A probe with micro-batches of a size that costs little here.

    Raises:
        ModelError: three blocks of the model do not fit here.
    """
    rest = size.total - size.body - size.adapter
    needed = 16 * ((1 + _DEEP) * size.body / size.layers + 2 * rest)
    free = free_memory(subject.device)
    if needed > 0.8 * free:
        raise ModelError(
            f"three blocks of this model need {needed / 1e9:.3g} GB to be probed and {free / 1e9:.3g} GB are free here; "
            "name the devices it would run on: --gpus 8xH100-80GB"
        )
    load = Load.of(groups)
    flops = 6 * (_DEEP * size.body / size.layers + size.head * load.counted / load.tokens)
    most = int(min(max(_FLOPS / flops, 256), 2048))
    return probe(subject, groups, _GPU_SIZES if subject.device.type == "cuda" else (most // 4, most), clock)


def probe(subject: Subject, groups: Sequence[Group], sizes: tuple[int, int], clock: Clock = time.perf_counter) -> Costs:
    """Measure small steps and extend them to the whole model.

    Args:
        subject: the model and how it is trained.
        groups: rows of the run, as the objective wants them.
        sizes: unique tokens of the two micro-batches; the smaller first.
        clock: seconds; process time where other work runs beside.
    """
    samples = [_sample(groups, size) for size in sizes]
    layers = subject.architecture.get_text_config().num_hidden_layers
    models = {depth: subject.twin(depth) for depth in sorted({1, min(_DEEP, layers)})}
    works = {(depth, place): _works(subject, models[depth], samples[place]) for depth, place in _points(models)}
    steps: dict[tuple[int, int], float] = {}
    forwards: dict[tuple[int, int], float] = {}
    for turn in range(_TURNS):  # in turns, so that a slow moment of the machine meets all of them
        for key, (step, forward) in works.items():
            for times, work in ((steps, step), (forwards, forward)):
                spent = _timed(work, subject.device, clock)
                times[key] = spent if turn < 2 else min(times[key], spent)
    update = _update(subject, models[max(models)], clock)
    tokens = [Load.of(some).tokens for some in samples]
    return Costs(whole_line(steps, tokens, layers), whole_line(forwards, tokens, layers), update)


def _points(depths: Collection[int]) -> list[tuple[int, int]]:
    """(depth, sample) of each probe step: one block with few and with many tokens, more blocks with many."""
    return [(1, 0), *((depth, 1) for depth in depths)]


def _works(subject: Subject, model: Any, groups: Sequence[Group]) -> tuple[Callable[[], None], Callable[[], None]]:
    """A step and a scoring pass of these groups."""
    anchor = scored_now(model, groups) if subject.objective.loss.needs_reference else None
    names = subject.objective.loss.byproducts
    policy = Policy(model, names, model if "divergence" in names else None)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        accumulate(model, [groups], copy.deepcopy(subject.objective), policy, anchor)

    def forward() -> None:
        with torch.no_grad():
            score(model, groups)

    return step, forward


def _sample(groups: Sequence[Group], tokens: int) -> list[Group]:
    """Groups as they come, up to so many tokens; the last may go beyond."""
    chosen: list[Group] = []
    total = 0
    for group in groups:
        if total >= tokens:
            break
        chosen.append(group)
        total += group.num_tokens
    return chosen


def _update(subject: Subject, model: nn.Module, clock: Clock) -> float:
    """Seconds per trained weight of clipping the gradient and moving the weights."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in trained:
        weight.grad = torch.full_like(weight, 1e-8)
    optimizer = build_optimizer(subject.optimizer, model)

    def work() -> None:
        nn.utils.clip_grad_norm_(trained, subject.optimizer.max_grad_norm)
        optimizer.step()

    times = [_timed(work, subject.device, clock) for _ in range(_TURNS)]
    return min(times[1:]) / max(1, sum(weight.numel() for weight in trained))


def _timed(work: Callable[[], None], device: torch.device, clock: Clock) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - began


def whole_line(times: Mapping[tuple[int, int], float], tokens: Sequence[float], layers: int) -> Line:
    """From seconds at (depth, sample) to those of the whole model; nothing extends to less than nothing.

    Example:
        >>> seconds = {(depth, place): 3 + (5 + depth) * t for depth in (1, 3) for place, t in enumerate((10, 30))}
        >>> whole_line(seconds, (10, 30), layers=4)  # 3, and 5 + 4
        Line(start=3.0, token=9.0)
    """
    few, many, deep = times[1, 0], times[1, 1], max(depth for depth, _ in times)
    token = (many - few) / (tokens[1] - tokens[0]) if tokens[1] > tokens[0] else many / tokens[1]
    block = max(0.0, times[deep, 1] - many) / tokens[1] / (deep - 1) if deep > 1 else 0.0
    return Line(max(0.0, few - token * tokens[0]), token + (layers - 1) * block)
