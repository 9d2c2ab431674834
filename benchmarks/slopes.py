"""How the cost of exptilt's training step grows with unique tokens, completions, vocabulary and length: slopes by least squares.

python benchmarks/slopes.py [--shape 7m-32k] [--precision float32] [--repeats 5]

Every point is a whole gradient (forward, loss, backward) of a fixed model, in CPU seconds of this process; the points of
a sweep take turns and each counts by its fastest turn. `log-log slope` is the exponent of the growth: 1 is linear.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from workloads import EOS, SHAPES, WORDS, Shape, build_model

from exptilt.data.groups import Completion, Group
from exptilt.labels import Ranked
from exptilt.losses import PlackettLuce
from exptilt.policies.engine.inside import set_precision
from exptilt.policies.engine.product import prefer_onednn
from exptilt.policies.policy import Policy
from exptilt.policies.scorer import ScorerFunction
from exptilt.policies.scoring import score_all
from exptilt.training.objective import Objective
from exptilt.training.step import accumulate
from exptilt.types import LogProbs


@dataclass(frozen=True)
class Point:
    """One size of a sweep: groups of `completions` answers of `length` tokens to a prompt of `prompt` tokens."""

    x: float
    shape: Shape
    count: int
    prompt: int
    length: int
    completions: int = 2

    def groups(self) -> list[Group]:
        rng = np.random.default_rng(0)

        def words(length: int) -> np.ndarray:
            return rng.integers(WORDS, self.shape.vocabulary, length, dtype=np.int32)

        def completion() -> Completion:
            ids = np.append(words(self.length - 1), np.int32(EOS))
            return Completion(ids, np.ones(len(ids), dtype=np.bool_))

        sides = range(self.completions)
        return [
            Group(
                id=str(number),
                prompt=words(self.prompt),
                completions=tuple(completion() for _ in sides),
                label=Ranked(tuple(side + 1 for side in sides)),
            )
            for number in range(self.count)
        ]


@dataclass(frozen=True)
class Sweep:
    """Points along one quantity."""

    title: str
    unit: str
    points: list[Point]
    per_token: bool = False
    """Whether the growth of the cost of a token is asked for, and not that of a step."""


def sweeps(shape: Shape) -> list[Sweep]:
    """What the page of results shows."""
    narrow = replace(shape, width=128, inner=344, layers=2, heads=2, kv_heads=2)
    return [
        Sweep(
            "unique tokens (pairs of 120 + 2 x 60)",
            "unique token",
            [Point(240 * n, shape, n, 120, 60) for n in (2, 4, 8, 16, 32)],
        ),
        Sweep(
            "completions K of one prompt (120 + K x 60, 4 prompts)",
            "unique token",
            [Point(4 * (120 + 60 * k), shape, 4, 120, 60, k) for k in (2, 4, 8, 16)],
        ),
        Sweep(
            "vocabulary (2 blocks of width 128)",
            "token of the vocabulary",
            [Point(v, replace(narrow, vocabulary=v), 8, 120, 60) for v in (4_000, 16_000, 64_000, 128_000)],
        ),
        Sweep(
            "length, 8,192 unique tokens in all (prompt 1/4, two completions)",
            "token of the longest sequence",
            [Point(n // 4 + 3 * n // 8, shape, 8192 // n, n // 4, 3 * n // 8) for n in (128, 512, 2048, 4096, 8192)],
            per_token=True,
        ),
    ]


def step_of(point: Point, model: Any) -> Callable[[], float]:
    """A function that takes one gradient and returns its CPU seconds."""
    groups = point.groups()
    table = {group.id: one for group, one in zip(groups, score_all(model, groups), strict=True)}
    objective, policy = Objective(PlackettLuce()), Policy(model)

    def reference(rows: Any) -> LogProbs:
        return LogProbs.cat([table[group.id] for group in rows])

    def step() -> float:
        model.zero_grad(set_to_none=True)
        began = time.process_time()
        accumulate(model, [groups], objective, policy, ScorerFunction(reference))
        return time.process_time() - began

    return step


def measure(sweep: Sweep, precision: torch.dtype, repeats: int) -> list[float]:
    """The fastest turn of each point."""
    models: dict[Shape, Any] = {}
    steps = []
    for point in sweep.points:
        if point.shape not in models:
            models[point.shape] = build_model(point.shape)
            set_precision(models[point.shape], precision)
        steps.append(step_of(point, models[point.shape]))
    turns = [[step() for step in steps] for _ in range(repeats + 1)][1:]
    return [min(column) for column in zip(*turns, strict=True)]


def line(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Intercept, slope, and R squared, each point weighted by 1 / y, so that small ones count as much as large ones."""
    design = np.stack([np.ones_like(x), x], 1)
    (intercept, slope), *_ = np.linalg.lstsq(design / y[:, None], np.ones_like(y), rcond=None)
    left = y - intercept - slope * x
    return float(intercept), float(slope), float(1 - (left**2).sum() / ((y - y.mean()) ** 2).sum())


def show(sweep: Sweep, seconds: list[float]) -> str:
    """The points and their line, as Markdown."""
    x = np.array([point.x for point in sweep.points])
    y = np.array(seconds)
    if sweep.per_token:
        y = y / np.array([point.count * (point.prompt + 2 * point.length) for point in sweep.points])
    intercept, slope, fit = line(x, y)
    growth = np.polyfit(np.log(x), np.log(y), 1)[0]
    small, large = (1e6, 1e9) if sweep.per_token else (1e3, 1e6)
    units = ("us", "ns") if sweep.per_token else ("ms", "us")
    what = "a token" if sweep.per_token else "a step"
    points = ", ".join(f"{one:,.0f}: {small * two:.3g}" for one, two in zip(x, y, strict=True))
    more = f"; doubled at {intercept / slope:,.0f}" if sweep.per_token and slope > 0 else ""
    return (
        f"| {sweep.title} | {points} {units[0]} {what} | {small * intercept:.3g} {units[0]} + {large * slope:.3g} "
        f"{units[1]} per {sweep.unit}{more} | {growth:.2f} | {fit:.4f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="7m-32k")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    prefer_onednn()
    print(f"torch {torch.__version__}, {options.threads} thread(s), {options.shape}, {options.precision}")
    print("| cost against | measured | line | log-log slope | R2 |\n|" + "---|" * 5, flush=True)
    for sweep in sweeps(SHAPES[options.shape]):
        seconds = measure(sweep, getattr(torch, options.precision), options.repeats)
        print(show(sweep, seconds), flush=True)


if __name__ == "__main__":
    main()
