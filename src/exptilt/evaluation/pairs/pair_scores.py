"""What a policy says of the two sides of a preference, as one number for each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike

from exptilt.evaluation.intervals import Floats, finite
from exptilt.types import LogProbs, Pair


def scores(policy: Pair, reference: Pair | None) -> dict[str, tuple[Floats, Floats]]:
    """The scores of both sides of N pairs, by name, each (N,) nats; the ones with the reference first.

    `sum` is over the counted tokens, `mean` per token, `shared_length` the sum over the first min(|chosen|, |rejected|)
    tokens of each side. What needs single tokens is left out where only sums are known.

    Raises:
        ValueError: if chosen and rejected, or policy and reference, do not fit each other.
    """
    if len(policy.chosen) != len(policy.rejected):
        raise ValueError(f"{len(policy.chosen)} chosen but {len(policy.rejected)} rejected completions")
    given = {"without_reference": Pair(*(_wide(side) for side in policy))}
    if reference is not None:
        given = {"with_reference": log_ratios(policy, reference)} | given
    return {f"{name}/{form}": values for name, pair in given.items() for form, values in _aggregate(pair).items()}


def side_of(rows: Sequence[ArrayLike]) -> LogProbs:
    """Log-probabilities of one side of N pairs from N arrays, one entry for each token of a completion."""
    arrays = [finite(row, f"completion {index}") for index, row in enumerate(rows)]
    lengths = torch.tensor([len(row) for row in arrays], dtype=torch.int64)
    return LogProbs(values=torch.from_numpy(np.concatenate(arrays)), lengths=lengths)


def log_ratios(policy: Pair, reference: Pair) -> Pair:
    """The log-ratios log pi - log pi_ref of both sides, by token where both know the tokens; float64, on the CPU.

    Raises:
        ValueError: if policy and reference were scored on different completions.
    """
    return Pair(*(_log_ratio(mine, theirs) for mine, theirs in zip(policy, reference, strict=True)))


def _log_ratio(policy: LogProbs, reference: LogProbs) -> LogProbs:
    mine, theirs = _wide(policy), _wide(reference)
    if not torch.equal(mine.lengths, theirs.lengths):
        raise ValueError("policy and reference were not scored on the same completions: their lengths differ")
    if mine.values is None or theirs.values is None:
        return LogProbs.from_sums(mine.sum() - theirs.sum(), mine.lengths)
    return LogProbs(values=mine.values - theirs.values, lengths=mine.lengths)


def _wide(side: LogProbs) -> LogProbs:
    return side.detach().to("cpu", torch.float64)


def _aggregate(pair: Pair) -> dict[str, tuple[Floats, Floats]]:
    found = {
        "sum": [side.sum() for side in pair],
        "mean": [side.mean() for side in pair],
    }
    if all(side.values is not None for side in pair):
        shared = torch.minimum(pair.chosen.lengths, pair.rejected.lengths)
        found["shared_length"] = [_first(side, shared) for side in pair]
    return {
        name: (
            finite(chosen.numpy(), f"the {name}s of chosen log-probabilities"),
            finite(rejected.numpy(), f"the {name}s of rejected log-probabilities"),
        )
        for name, (chosen, rejected) in found.items()
    }


def _first(side: LogProbs, count: torch.Tensor) -> torch.Tensor:
    """(N,) sums over the first `count` tokens of each completion."""
    starts = side.lengths.cumsum(0) - side.lengths
    position = torch.arange(int(side.lengths.sum())) - torch.repeat_interleave(starts, side.lengths)
    return side.sum_of(torch.where(position < torch.repeat_interleave(count, side.lengths), side.tokens(), 0))
