"""Sequence-level KL(policy || reference) in nats, from samples of the policy."""

from __future__ import annotations

from dataclasses import dataclass

from numpy.typing import ArrayLike

from exptilt.evaluation.intervals import DEFAULT, Clusters, Floats, Prompts, Resampling, finite, mean, ratio
from exptilt.evaluation.result import Panel
from exptilt.run_folder.estimate_record import Estimate
from exptilt.sampling.sampling_law import SamplingLaw, require_plain

_ROUNDING = 1e-3
"""Nats; how far below zero rounding in the model's dtype may take a Rao-Blackwellised sum, which is a sum of KLs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceKL(Panel):
    """KL(policy || reference) of whole completions, nats."""

    kl: Estimate
    """Mean of the Rao-Blackwellised sums: unbiased, and many times less noisy than k1."""
    k1: Estimate | None
    """Mean of log pi - log pi_ref over the same samples: the same number with more noise."""
    k1_minus_kl: Estimate | None
    """Paired; an interval without 0 says that the samples are not of this policy, or were not scored as drawn."""
    by_prompt: Floats
    """(X,) mean of the sums on each prompt, in the order in which prompts first appear; what the frontier takes."""
    num_samples: int


def estimate_kl(
    sums: ArrayLike,
    prompts: Prompts,
    law: SamplingLaw,
    *,
    k1: ArrayLike | None = None,
    resampling: Resampling = DEFAULT,
) -> SequenceKL:
    """Estimate KL(policy || reference) from samples of the policy.

        KL = E_{y ~ pi} sum_t KL(pi(.|x, y_<t) || pi_ref(.|x, y_<t))

    over the tokens drawn, the end token's step included and nothing after it.

    Args:
        sums: (N,) for each sample the sum over its steps of the KL between the two next-token distributions, nats
            (`policies.divergence.sequence_kl` computes it).
        prompts: (N,) the prompt of each sample.
        law: how the samples were drawn; only the plain law has this KL.
        k1: (N,) log pi(y|x) - log pi_ref(y|x) of the same samples, as a check.
        resampling: bootstrap over prompts.

    Raises:
        ValueError: another law than the plain one; sums that are not finite, or negative (then they are k1, not KLs).

    Source: Amini, Vieira and Cotterell (2025), https://arxiv.org/abs/2504.10637.

    Example:
        >>> found = estimate_kl([1.0, 2.0, 3.0, 4.0], ["a", "a", "b", "b"], SamplingLaw(), k1=[0.0, 4.0, 2.0, 4.0])
        >>> found.kl.value, found.k1.value, found.by_prompt.tolist()
        (2.5, 2.5, [1.5, 3.5])
    """
    require_plain(law, "a sequence-level KL")
    rows = finite(sums, "the Rao-Blackwellised sums")
    if (rows < -_ROUNDING).any():
        raise ValueError(
            f"{int((rows < -_ROUNDING).sum())} of {rows.size} sums are negative, which a sum of KLs cannot be: "
            "log-ratios (k1) go into the argument k1"
        )
    clusters = Clusters(prompts)
    ratios = None if k1 is None else finite(k1, "k1")
    return SequenceKL(
        kl=mean(rows, prompts, resampling),
        k1=None if ratios is None else mean(ratios, prompts, resampling),
        k1_minus_kl=None if ratios is None else mean(ratios - rows, prompts, resampling),
        by_prompt=clusters.means(rows),
        num_samples=rows.size,
    )


def nats_per_token(sums: ArrayLike, lengths: ArrayLike, prompts: Prompts, resampling: Resampling = DEFAULT) -> Estimate:
    """Sum of KLs over number of tokens. Not a KL of completions: policies that agree in it may differ in that by far.

    Args:
        sums: (N,) as in `estimate_kl`.
        lengths: (N,) tokens of each sample.
        prompts: (N,) the prompt of each sample.
        resampling: bootstrap over prompts.

    Example:
        >>> nats_per_token([2.0, 6.0], [40, 120], ["a", "b"]).value
        0.05
    """
    return ratio(sums, lengths, prompts, resampling)
