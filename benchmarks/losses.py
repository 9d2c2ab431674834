"""Cost of every loss: value and gradient for 4,096 pairs (or as many completions) on one core.

    python benchmarks/losses.py

Losses on sums should cost under a millisecond, which is nothing next to the model; those on tokens are given 64 per completion.
"""

from __future__ import annotations

import time
from typing import Any, get_args

import torch

from exptilt.losses import AnyLoss
from exptilt.types import LogProbs, Pair

NUM_PAIRS, NUM_TOKENS, REPEATS = 4096, 64, 15


def logps(tokens: bool, seed: int) -> LogProbs:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.full((NUM_PAIRS,), NUM_TOKENS)
    if not tokens:
        return LogProbs.from_sums(-100 * torch.rand(NUM_PAIRS, generator=generator), lengths)
    shape = NUM_PAIRS * NUM_TOKENS
    values, positive = -3 * torch.rand(shape, generator=generator), torch.rand(shape, generator=generator)
    return LogProbs(values=values, lengths=lengths, divergence=positive, log_sum_squares=-positive)


def inputs(loss: Any) -> dict[str, Any]:
    half = torch.arange(NUM_PAIRS) % 2 == 0
    known = {
        "margin": torch.rand(NUM_PAIRS) + 0.1,
        "chosen_score": torch.rand(NUM_PAIRS),
        "rejected_score": torch.rand(NUM_PAIRS),
        "chosen_is_policy": half,
        "desirable": half,
        "sizes": torch.full((NUM_PAIRS // 4,), 4),
        "ranks": torch.arange(NUM_PAIRS) % 4 + 1,
        "scores": torch.rand(NUM_PAIRS),
        "mismatched": logps(False, 5),
        "mismatched_reference": logps(False, 6),
    }
    return {name: known[name] for name in (*loss.kind.columns, *loss.inputs)}


def milliseconds(loss: Any) -> float:
    """The fastest of several repeats: value, mean and gradient."""
    policy, reference = (Pair(logps(loss.needs_tokens, seed), logps(loss.needs_tokens, seed + 1)) for seed in (0, 2))
    leaves = [side.values if side.values is not None else side.totals for side in policy]
    for leaf in leaves:
        assert leaf is not None
        leaf.requires_grad_()
    arguments: Any = (policy, reference) if loss.kind.is_paired else (policy.chosen, reference.chosen)
    extra = inputs(loss)
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        loss(arguments[0], arguments[1] if loss.needs_reference else None, **extra).loss.mean().backward()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def main() -> None:
    torch.set_num_threads(1)
    print(f"{NUM_PAIRS} pairs, value and gradient, one core, fastest of {REPEATS}\n\n{'loss':24}{'ms':>8}  on")
    for cls in get_args(AnyLoss):
        loss = cls()
        print(f"{loss.name:24}{milliseconds(loss):8.2f}  {'tokens' if loss.needs_tokens else 'sums'}")


if __name__ == "__main__":
    main()
