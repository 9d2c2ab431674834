"""Sequence-level KL divergence between a policy and its reference on given completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from exptilt.data.batching import by_size
from exptilt.data.groups import Group
from exptilt.policies.engine.forward import evaluating
from exptilt.policies.scoring import unit_scores
from exptilt.progress import progress_bar
from exptilt.settings.data_settings import DEFAULT_TOKENS


@dataclass(frozen=True, eq=False, kw_only=True)
class KlSums:
    """Sums over the counted tokens of C completions; nats, float64, on the CPU."""

    kl: Tensor
    """(C,) sum over steps t of KL(policy(. | x, y_<t) || reference(. | x, y_<t))."""
    k1: Tensor
    """(C,) sum over steps of log policy(y_t | x, y_<t) - log reference(y_t | x, y_<t)."""
    policy: Tensor
    """(C,) sum over steps t of log policy(y_t | x, y_<t): log-probabilities of whole completions."""
    lengths: Tensor
    """(C,) int64, counted tokens."""


def sequence_kl(
    policy: Any, reference: Any, groups: Sequence[Group], *, max_tokens: int = DEFAULT_TOKENS, progress: str = ""
) -> KlSums:
    """Per-completion sums whose mean over samples of the policy estimates KL(policy || reference) of sequences.

    Both fields have the same expectation over y ~ policy(. | x), the sequence-level KL. `kl` averages each step over
    the next token (Rao-Blackwell), so it is never negative and its variance is smaller; `k1` is the plain log-ratio of
    the sequence. On completions that were not sampled from the policy neither estimates that KL.

        kl(y) = sum_t sum_v policy(v | x, y_<t) (log policy(v | x, y_<t) - log reference(v | x, y_<t))

    Both models see the same packed rows; only a chunk of rows of both distributions exists at once.

    Args:
        policy: a causal language model.
        reference: another with the same vocabulary.
        groups: prompts with completions drawn from the policy at temperature 1; C completions in all.
        max_tokens: unique tokens at once.
        progress: name of the progress bar; empty for none.

    Source: Amini, Vieira & Cotterell, "Better Estimation of the Kullback-Leibler Divergence Between Language Models",
        arXiv 2504.10637.
    """
    counts = [len(group.completions) for group in groups]
    starts = [0, *accumulate(counts)]
    num = sum(counts)
    kl, k1, logps = (torch.zeros(num, dtype=torch.float64) for _ in range(3))
    lengths = torch.zeros(num, dtype=torch.int64)
    bar = progress_bar(len(groups), doing=progress, unit="row", shown=bool(progress))
    with evaluating(policy), evaluating(reference), torch.no_grad(), bar:
        for batch in by_size([group.num_tokens for group in groups], max_tokens):
            units, sizes = unit_scores(policy, [groups[index] for index in batch], ("kl", "log_ratio"), reference)
            places = torch.cat([torch.arange(starts[index], starts[index + 1]) for index in batch])
            owner = places.repeat_interleave(sizes.cpu())
            kl.index_add_(0, owner, units["kl"].double().cpu())
            k1.index_add_(0, owner, units["log_ratio"].double().cpu())
            logps.index_add_(0, owner, units["values"].double().cpu())
            lengths[places] = sizes.cpu()
            bar.update(len(batch))
    return KlSums(kl=kl, k1=k1, policy=logps, lengths=lengths)
