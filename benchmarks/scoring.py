"""Where the time of a training step goes: matrix products, attention, head, and the rest; the optimizer aside.

python benchmarks/scoring.py [--workloads hh tldr ultrafeedback] [--shapes 7m-32k] [--precisions float32 bfloat16 autocast]

CPU seconds; what is compared runs interleaved in one process. "products" are the linear layers' matrix products of the
unique tokens alone, forward and both gradients, in the step's shapes and dtype, with nothing allocated; attention's own
products are not in them. "share" is products / step.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from workloads import SHAPES, WORKLOADS, Shape, build_model, rows_of

from exptilt.data.groups import Group
from exptilt.policies.engine import attention
from exptilt.policies.engine.forward import packed_states
from exptilt.policies.engine.fused import gradient_of_states
from exptilt.policies.engine.head import Head, States
from exptilt.policies.engine.packing import pack
from exptilt.policies.engine.self_check import packable
from exptilt.policies.scoring import head_gradients
from exptilt.types import LogProbs

PARTS = ("step", "trunk", "trunk without attention", "head", "trunk products", "head products")


def dpo(groups: Sequence[Group], logps: LogProbs) -> Tensor:
    """Without a reference, which costs nothing here."""
    sums = logps.sum().view(len(groups), -1)
    return -logsigmoid(0.1 * (sums[:, 0] - sums[:, 1])).sum()


def products(matrices: Sequence[tuple[int, int]], tokens: int, dtype: torch.dtype) -> Callable[[], None]:
    """The products of linear layers with (inputs, outputs) on `tokens` rows."""
    calls = []
    for inputs, outputs in matrices:
        x, w, g = (
            torch.randn(shape, dtype=dtype) for shape in ((tokens, inputs), (outputs, inputs), (tokens, outputs))
        )
        y, dx, dw = (torch.empty_like(tensor) for tensor in (g, x, w))
        calls += [(x, w.T, y), (g, w, dx), (g.T, x, dw)]

    def run() -> None:
        for left, right, out in calls:
            torch.mm(left, right, out=out)

    return run


@contextmanager
def no_attention() -> Iterator[None]:
    """Attention that only passes gradients on."""
    before = attention._packed
    attention._packed = lambda query, key, value, *_: (query + 0 * key + 0 * value).transpose(1, 2)
    try:
        yield
    finally:
        attention._packed = before


def parts_of(shape: Shape, groups: list[Group], precision: str) -> dict[str, Callable[[], Any]]:
    """What is timed, by name; heads of keys must be as many as heads."""
    half = precision != "float32"
    model = build_model(shape, torch.bfloat16 if precision == "bfloat16" else torch.float32).train()
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast")
    assert packable(model)
    packed = pack(groups)
    hidden = packed_states(model, packed).hidden.detach()

    def step() -> None:
        with autocast:
            states, gradient = head_gradients(model, groups, dpo)
        states.backward(gradient)

    def trunk() -> None:
        with autocast:
            states = packed_states(model, pack(groups)).hidden
        states.backward(torch.ones_like(states))

    def bare() -> None:
        with no_attention():
            trunk()

    def head() -> None:
        with autocast:
            gradient_of_states(States(Head.of(model), hidden), packed.targets, groups, dpo)

    dtype = torch.bfloat16 if half else torch.float32
    body = products(shape.matrices, packed.input_ids.numel(), dtype)
    rows = min(256, len(packed.targets))
    top = products([(shape.width, shape.vocabulary)], rows, dtype)
    times = {"trunk products": shape.layers, "head products": len(packed.targets) / rows}
    calls = (step, trunk, bare, head, body, top)
    return {name: timed(call, times.get(name, 1.0)) for name, call in zip(PARTS, calls, strict=True)}


def timed(call: Callable[[], None], times: float) -> Callable[[], float]:
    """CPU seconds of a call, so many times over."""

    def run() -> float:
        began = time.process_time()
        call()
        return times * (time.process_time() - began)

    return run


def main() -> None:
    """Print one line per setting: medians, and the smallest and largest share."""
    options = argparse.ArgumentParser()
    options.add_argument("--workloads", nargs="+", default=["hh", "tldr", "ultrafeedback"], choices=list(WORKLOADS))
    options.add_argument("--shapes", nargs="+", default=["7m-32k"], choices=list(SHAPES))
    options.add_argument("--precisions", nargs="+", default=["float32", "bfloat16", "autocast"])
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--repeats", type=int, default=7)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    print(f"torch {torch.__version__}, {chosen.threads} thread(s), {chosen.repeats} interleaved repeats, CPU seconds")
    print("| workload | shape | precision | tokens / counted | step | share | trunk products | attention | trunk rest "
          "| head products | head rest |\n" + "|---" * 11 + "|")  # fmt: skip
    for workload in chosen.workloads:
        for name in chosen.shapes:
            groups = rows_of(WORKLOADS[workload], SHAPES[name].vocabulary, WORKLOADS[workload].groups)
            packed = pack(groups)
            for precision in chosen.precisions:
                parts = parts_of(SHAPES[name], groups, precision)
                runs = [{part: call() for part, call in parts.items()} for _ in range(chosen.repeats + 1)][1:]
                middle = {part: statistics.median(run[part] for run in runs) for part in parts}
                shares = sorted((run["trunk products"] + run["head products"]) / run["step"] for run in runs)
                cells = [
                    middle["trunk products"],
                    middle["trunk"] - middle["trunk without attention"],
                    middle["trunk without attention"] - middle["trunk products"],
                    middle["head products"],
                    middle["head"] - middle["head products"],
                ]
                print(
                    f"| {workload} | {name} | {precision} | {packed.input_ids.numel()} / {len(packed.targets)} "
                    f"| {middle['step']:.2f} s | {100 * statistics.median(shares):.0f} % "
                    f"({100 * shares[0]:.0f}-{100 * shares[-1]:.0f}) | "
                    + " | ".join(f"{100 * cell / middle['step']:.0f} %" for cell in cells)
                    + " |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
