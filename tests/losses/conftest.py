"""The harness of the formula tests: a loss against a formula written apart from it, in 70-digit arithmetic.

Numbers travel as `Tokens`: name -> completions -> log-probabilities of their tokens, with w, l the policy's chosen and rejected
completions, rw, rl the reference's, y, ry those of losses on single completions and lists, m, rm the mismatched ones, and dw, dl
(qw, ql) the per-token divergences (log sums of squares).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from mpmath import mp, mpf

from exptilt.types import LogProbs, Pair

Tokens = dict[str, list[list[Any]]]
Formula = Callable[[Tokens, Tokens], list[Any]]
STEP = mpf("1e-32")
TOO_LARGE = mpf("1e24")
"""Beyond this the continued exponentials differ from the formula on purpose."""


@pytest.fixture(autouse=True)
def _one_thread_and_many_digits() -> Iterator[None]:
    torch.set_num_threads(1)
    with mp.workdps(70):
        yield


def call(
    loss: Any, tokens: Tokens, inputs: dict[str, Any], dtype: torch.dtype, track: list[str]
) -> tuple[Any, dict[str, torch.Tensor]]:
    """The loss on tokens of one dtype; also the leaf tensors of the names in `track`."""
    leaves: dict[str, torch.Tensor] = {}

    def leaf(name: str) -> torch.Tensor | None:
        if name not in tokens:
            return None
        leaves[name] = torch.tensor([float(t) for c in tokens[name] for t in c], dtype=torch.float64).to(dtype)
        leaves[name].requires_grad_(name in track)
        return leaves[name]

    def logps(name: str, side: str = "") -> LogProbs:
        lengths = torch.tensor([len(c) for c in tokens[name]])
        extra = {"divergence": leaf("d" + side), "log_sum_squares": leaf("q" + side)} if side else {}
        return LogProbs(values=leaf(name), lengths=lengths, **extra)

    if loss.kind == "pair":
        reference = Pair(logps("rw"), logps("rl")) if loss.needs_reference else None
        return loss(Pair(logps("w", "w"), logps("l", "l")), reference, **inputs), leaves
    if "m" in tokens:
        inputs = {**inputs, "mismatched": logps("m"), "mismatched_reference": logps("rm")}
    return loss(logps("y"), logps("ry") if loss.needs_reference else None, **inputs), leaves


def objective(out: Any) -> torch.Tensor:
    weight = getattr(out, "weight", None)
    return out.loss.mean() if weight is None else (out.loss * weight).sum() / weight.sum()


def exact(tokens: Tokens) -> Tokens:
    return {name: [[mpf(float(t)) for t in c] for c in completions] for name, completions in tokens.items()}


def slope(formula: Formula, tokens: Tokens, name: str, row: int, column: int) -> Any:
    """Central difference of the mean loss in one token; what the formula calls frozen does not move."""

    def moved(step: Any) -> Any:
        changed = {**tokens, name: [list(c) for c in tokens[name]]}
        changed[name][row][column] += step
        losses = formula(changed, tokens)
        return mp.fsum(losses) / len(losses)

    return (moved(STEP) - moved(-STEP)) / (2 * STEP)


def close(measured: float, expected: Any, rtol: float, atol: float) -> bool:
    return abs(mpf(measured) - expected) <= rtol * abs(expected) + atol


@pytest.fixture
def same_as() -> Callable[..., None]:
    """Check value and gradient of a loss against a formula: same_as(loss, formula, tokens, inputs, ...)."""

    def check(
        loss: Any, formula: Formula, tokens: Tokens, inputs: dict[str, Any], *, dtype: torch.dtype = torch.float64,
        rtol: float = 1e-12, atol: float = 1e-15, places: int = 10**9,
    ) -> None:  # fmt: skip
        track = [name for name in ("w", "l", "y", "dw", "dl") if name in tokens]
        out, leaves = call(loss, tokens, inputs, dtype, track)
        tokens = {name: _stored(tokens[name], leaves[name]) if name in leaves else tokens[name] for name in tokens}
        numbers = exact(tokens)
        wanted = formula(numbers, numbers)
        assert len(out.loss) == len(wanted)
        for measured, expected in zip(out.loss.tolist(), wanted, strict=True):
            assert close(measured, expected, rtol, atol), (loss, measured, expected)
        total = objective(out)
        assert total.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert close(total.item(), mp.fsum(wanted) / len(wanted), rtol, atol), (loss, total, wanted)
        for name, gradient in zip(
            track, torch.autograd.grad(total, [leaves[n] for n in track], allow_unused=True), strict=True
        ):
            flat = iter([] if gradient is None else gradient.double().tolist())
            for row, completion in enumerate(tokens[name]):
                for column in range(len(completion)):
                    measured = next(flat, 0.0)
                    if column < places:
                        expected = slope(formula, numbers, name, row, column)
                        held = close(measured, expected, rtol, atol) or (
                            abs(expected) > TOO_LARGE and math.isfinite(measured)
                        )
                        assert held, (loss, name, row, column, measured, expected)

    return check


@pytest.fixture
def extreme(same_as: Callable[..., None]) -> Callable[..., None]:
    """Check a loss in low precision: extreme(loss, formula, tokens, inputs, dtype).

    Against the formula where float32 can hold the answer (gradients in the first token of each completion), else only that value
    and gradient are finite.
    """

    def check(loss: Any, formula: Formula, tokens: Tokens, inputs: dict[str, Any], dtype: torch.dtype) -> None:
        values = formula(exact(tokens), exact(tokens))
        if all(abs(value) < TOO_LARGE for value in values):
            # bfloat16 gradients are the float32 ones, stored with 8 bits.
            same_as(
                loss, formula, tokens, inputs, dtype=dtype, rtol=2e-5, atol=2e-6, places=int(dtype == torch.float32)
            )
        names = [name for name in ("w", "l", "y") if name in tokens]
        out, leaves = call(loss, tokens, inputs, dtype, names)
        assert out.loss.dtype == torch.float32
        assert bool(out.loss.isfinite().all())
        gradients = torch.autograd.grad(objective(out), [leaves[name] for name in names], allow_unused=True)
        assert all(bool(gradient.isfinite().all()) for gradient in gradients if gradient is not None)

    return check


def _stored(completions: list[list[Any]], leaf: torch.Tensor) -> list[list[float]]:
    """The numbers as the dtype stored them."""
    flat = iter(leaf.detach().double().tolist())
    return [[next(flat) for _ in completion] for completion in completions]


@pytest.fixture
def draw() -> Callable[..., Tokens]:
    """Random tokens for names and lengths: draw(seed, w=[3, 2], l=[2, 4]) also fills the reference's rw and rl."""

    def drawn(seed: int, **lengths: list[int]) -> Tokens:
        source = random.Random(seed)
        tokens: Tokens = {}
        for name, sizes in lengths.items():
            for key in (name, "r" + name):
                tokens[key] = [[-source.uniform(0.05, 2.5) for _ in range(size)] for size in sizes]
        for side in ("w", "l"):
            if side in lengths:
                tokens["d" + side] = [[source.uniform(0.0, 0.8) for _ in range(size)] for size in lengths[side]]
                tokens["q" + side] = [[-source.uniform(0.2, 1.5) for _ in range(size)] for size in lengths[side]]
        return tokens

    return drawn
