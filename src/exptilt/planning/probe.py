"""The rehearsal: seconds and memory of a few steps on this machine, with the model's shapes and rows of the run.

A process of its own, as a run will be, makes the model with random weights, does once what a run does before step 1, and
takes steps: small ones, then the run's own first, or smaller where those would take long. Seconds of a micro-batch are
linear in its operations, the process's peak in its tokens; two points give the lines. What a process takes at its peak
cannot be counted from tensors: products keep code and copies for every new shape, the heap keeps holes between them, and
both grow from step to step.
"""

from __future__ import annotations

import json
import pickle
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from typing import Any, Literal

import psutil
import torch
from torch import nn
from transformers import PreTrainedConfig

from exptilt.data.groups import Group
from exptilt.errors import ModelError
from exptilt.policies.engine.pooled import has_score, padding_of
from exptilt.policies.engine.product import prefer_onednn
from exptilt.policies.reward_scorer import scores_of_groups
from exptilt.policies.scorer import MicroBatches
from exptilt.policies.scoring import score_all
from exptilt.policies.start import Start
from exptilt.processes.allocator import given_back, keep_freed
from exptilt.processes.memory import peak_bytes
from exptilt.runs.run_models import Models, Setup, set_up
from exptilt.runs.token_budget import scored_now
from exptilt.sampling.generate import sample
from exptilt.sampling.sampling_law import SamplingLaw
from exptilt.settings.training_settings import OptimConfig, ParallelConfig
from exptilt.training.objective import Objective
from exptilt.training.optim import build_optimizer
from exptilt.training.step import accumulate

TURNS = 2
"""Steps of each size that are timed at least, after one that is not. Each has other rows: what a new shape costs is part of it."""
_APART = 1.5
"""How many times larger the larger must be, so that noise does not decide on the slope."""
_NEW_TOKENS = (1, 6)
"""Drawn for each prompt; the difference is what a token costs."""


@dataclass(frozen=True)
class StraightLine:
    """A line: value = start + slope * size."""

    start: float
    slope: float

    def at(self, size: float) -> float:
        """The value at a size."""
        return self.start + self.slope * size

    @classmethod
    def through(cls, points: Sequence[tuple[float, float]], least: float = 0.0) -> StraightLine:
        """The line through two points (size, value), never falling; through the larger point and `least` where the sizes are close.

        Example:
            >>> StraightLine.through([(10, 25.0), (30, 45.0)]), StraightLine.through([(9, 19.0), (10, 20.0)])
            (StraightLine(start=15.0, slope=1.0), StraightLine(start=0.0, slope=2.0))
        """
        (few, low), (many, high) = points
        if many < _APART * few:
            few, low = 0.0, least
        slope = min(max(0.0, (high - low) / (many - few)), max(0.0, high - least) / many)
        return cls(high - slope * many, slope)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The subject of a rehearsal, pickled for the new process."""

    architecture: PreTrainedConfig
    setup: Setup
    """As in `rehearsed`."""
    weights: torch.dtype
    device: Literal["cpu", "cuda"]
    optimizer: OptimConfig
    loss: Any
    small: Sequence[MicroBatches]
    large: Sequence[MicroBatches]
    """Steps of two sizes, as the objective wants them."""
    accumulates: bool
    """Whether a step of the run has more micro-batches than these, so that activations lie beside a gradient."""
    prompts: Sequence[Any]
    """Token ids, of the check of the reference; empty where a run makes none."""
    threads: int
    cpu_time: bool = False
    """Measure the processor's time instead of the clock's, where other work runs beside."""

    def models(self) -> Models:
        """Random weights of the run's shape, set up as the run sets up its own."""
        prefer_onednn()
        keep_freed()
        models = set_up(
            Start(self._random(), self.weights),
            self.setup,
            other=self._random() if self.setup.reference == "other" else None,
        )
        models.policy.train()
        return models

    def _random(self) -> Any:
        model = self.setup.head.model(self.architecture, dtype=self.weights)
        if has_score(model) and padding_of(model) is None:
            model.config.get_text_config().pad_token_id = 0
        return model


def rehearsed(setup: Setup) -> Setup:
    """The setup of a rehearsal in one process: not sharded, not compiled, not quantised, with a new adapter."""
    adapter = None if setup.adapter is None else replace(setup.adapter, path=None)
    return replace(setup, adapter=adapter, parallel=ParallelConfig(kind="none"), compiles=False)


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """Measurements of a rehearsal; each pair holds the means of the smaller and of the larger micro-batches."""

    step: tuple[float, float]
    """Seconds of forward, loss and backward."""
    forward: tuple[float, float]
    """Seconds of scoring without a graph."""
    update: float
    """Seconds of clipping and the optimizer."""
    draw: float
    """Seconds of one more token for all prompts; 0 where none was drawn."""
    before: float
    """Most bytes of main memory above the libraries' before the first step."""
    peak: tuple[float, float]
    """The same when steps of each size were taken; the larger includes the smaller."""

    def peak_with(self, tokens: int, subject: Subject) -> float:
        """Peak bytes with `tokens` tokens in the largest micro-batch."""
        small, large = (
            max(_tokens(groups) for step in some for groups in step) for some in (subject.small, subject.large)
        )
        line = StraightLine.through([(small, self.peak[0]), (large, self.peak[1])], self.before)
        return max(self.before, self.peak[1], line.at(tokens))


def rehearse(subject: Subject) -> Rehearsal:
    """Run `rehearsal` in a new process.

    Raises:
        ModelError: it could not be done, most likely for want of memory.
    """
    command = [sys.executable, "-c", "from exptilt.planning.probe import main; main()"]
    done = subprocess.run(command, input=pickle.dumps(subject), capture_output=True, check=False)  # noqa: S603 - our own
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["killed, most likely for want of memory"]
        raise ModelError(
            f"a rehearsal of a few steps failed here ({lines[-1]}); name the devices it would run on: --gpus 8xH100-80GB"
        )
    return Rehearsal(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Entry point of the new process: reads a pickled `Subject`, prints JSON."""
    subject: Subject = pickle.loads(sys.stdin.buffer.read())  # noqa: S301 - written by `rehearse`
    torch.set_num_threads(subject.threads)
    print(json.dumps(asdict(rehearsal(subject, time.process_time if subject.cpu_time else time.perf_counter))))


def rehearsal(subject: Subject, clock: Callable[[], float]) -> Rehearsal:
    """Take the steps of a run in this process, in its order, the smaller ones first.

    Args:
        subject: the model and the steps.
        clock: returns seconds.
    """
    base = psutil.Process().memory_info().rss
    models = subject.models()
    model = models.policy
    watch = _Watch(subject.device, clock)
    with given_back():
        draw = _drawing(model, subject.prompts, watch)
    step, forward = _works(subject, models)
    before = peak_bytes() - base
    update = _update(subject, model)
    means, peaks = [], []
    for steps in (subject.small, subject.large):
        times = [(watch.seconds(step, one), watch.seconds(update)) for one in steps]
        scoring = [watch.seconds(forward, one) for one in steps[: TURNS + 1]]
        count, scored = (statistics.mean(map(len, some)) for some in (steps[1:], steps[1 : TURNS + 1]))
        stepping, updating = (statistics.mean(column) for column in zip(*times[1:], strict=True))
        means.append((stepping / count, statistics.mean(scoring[1:]) / scored, updating))
        peaks.append(float(peak_bytes() - base))
    small, large = means
    return Rehearsal(
        step=(small[0], large[0]),
        forward=(small[1], large[1]),
        update=(small[2] + large[2]) / 2,
        draw=draw,
        before=before,
        peak=(peaks[0], peaks[1]),
    )


@dataclass(frozen=True)
class _Watch:
    device: str
    clock: Callable[[], float]

    def seconds(self, work: Callable[..., Any], *given: Any) -> float:
        """Seconds of a call."""
        self._wait()
        began = self.clock()
        work(*given)
        self._wait()
        return self.clock() - began

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def _drawing(model: Any, prompts: Sequence[Any], watch: _Watch) -> float:
    if not prompts:
        return 0.0
    times = []
    for count in _NEW_TOKENS:
        law = SamplingLaw(max_new_tokens=count, min_new_tokens=count)
        times.append(watch.seconds(partial(sample, law=law), model, (0,), prompts))
    return max(0.0, times[1] - times[0]) / (_NEW_TOKENS[1] - _NEW_TOKENS[0])


def _works(subject: Subject, models: Models) -> tuple[Callable[[MicroBatches], None], Callable[[MicroBatches], None]]:
    """A step, and a scoring pass of the same rows."""
    model, objective = models.policy, Objective(subject.loss)
    everything = [
        group for steps in (subject.small, subject.large) for step in steps for some in step for group in some
    ]
    policy, anchor = models.scorer(subject.setup, objective.loss), None
    if objective.loss.needs_reference:
        anchor = models.held if subject.setup.moves else scored_now(model, everything)

    def step(micro_batches: MicroBatches) -> None:
        if not subject.accumulates:
            model.zero_grad(set_to_none=True)
        accumulate(model, micro_batches, replace(objective, state=dict(objective.state)), policy, anchor)

    def forward(micro_batches: MicroBatches) -> None:
        most = max(_tokens(some) for some in micro_batches)
        groups = list(chain.from_iterable(micro_batches))
        if has_score(model):
            scores_of_groups(model, groups, max_tokens=most)
        else:
            score_all(model, groups, max_tokens=most)

    return step, forward


def _tokens(groups: Sequence[Group]) -> int:
    return sum(group.num_tokens for group in groups)


def _update(subject: Subject, model: nn.Module) -> Callable[[], None]:
    """A function that clips the gradient and takes an optimizer step with a tiny learning rate; the gradient stays."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = build_optimizer(replace(subject.optimizer, learning_rate=1e-12), model)

    def work() -> None:
        nn.utils.clip_grad_norm_(trained, subject.optimizer.max_grad_norm)
        optimizer.step()

    return work
