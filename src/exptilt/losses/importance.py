"""Importance weights between the policy in training and the policy that drew its samples, truncated above."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from exptilt.losses.base import check_column
from exptilt.losses.stable import expm1_with_linear_tail
from exptilt.types import LogProbs, at_least_float32

RATIO_ERROR = "ratio_error"
"""The metric of losses with a ratio to the policy that drew: mean over tokens of |log pi / mu|, 0 on a fresh rollout."""
Level = Literal["token", "sequence"]


def log_weights(policy: LogProbs, behaviour: Tensor | None) -> Tensor:
    """(N,) log pi(y_t) - log mu(y_t) of every counted token, with the policy's gradient.

    Args:
        policy: of the samples.
        behaviour: (N,) log-probabilities of the tokens under the policy mu that drew them, nats.
    """
    tokens = at_least_float32(policy.tokens())
    return tokens - check_column("behaviour", behaviour, len(tokens)).to(tokens)


def truncated_weights(policy: LogProbs, behaviour: Tensor | None, limit: float, level: Level = "sequence") -> Tensor:
    """min(pi / mu, limit) without gradient: (B,) of whole samples, or (N,) of tokens.

    Samples of another policy than the one in training, or of the same one computed by another program, count by their weight;
    the limit keeps a few of them from counting for all, at the price of a bias toward what drew them.

    Args:
        policy: of the samples.
        behaviour: (N,) log-probabilities of the tokens under the policy that drew them, nats.
        limit: largest weight, > 0.
        level: whether the ratio is that of samples, which is the unbiased one, or of each token.

    Source: Ionides (2008), Truncated importance sampling.

    Example:
        >>> policy = LogProbs(values=torch.tensor([-1.0, -1.0, -1.0]), lengths=torch.tensor([2, 1]))
        >>> truncated_weights(policy, torch.tensor([-1.5, -1.0, -3.0]), limit=2.0).tolist()
        [1.6487212181091309, 2.0]
    """
    ratios = log_weights(policy, behaviour).detach()
    if level == "sequence":
        ratios = policy.sum_of(ratios)
    return ratios.clamp(max=math.log(limit)).exp()


def mismatch(policy: LogProbs, behaviour: Tensor | None) -> Tensor:
    """(B,) mean over each sample's tokens of |log pi(y_t) - log mu(y_t)|, nats; 0 where sampler and trainer agree."""
    total = policy.sum_of(log_weights(policy, behaviour).detach().abs())
    return total / policy.nonempty_lengths().to(total)


def effective_share(weights: Tensor) -> float:
    """(sum w)^2 / (n sum w^2): by which share of the samples a mean with these weights is as good as a plain one.

    Example:
        >>> effective_share(torch.tensor([1.0, 1.0, 0.0, 0.0]))
        0.5
    """
    return float(weights.sum() ** 2 / (len(weights) * (weights**2).sum()))


def clipped_surrogate(log_ratios: Tensor, advantages: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """The loss of the clipped surrogate, and whether its gradient was cut, both of the shape of `log_ratios`.

        max(-A w, -A clip(w, 1 - clip, 1 + clip)),    w = exp(log-ratio)

    Args:
        log_ratios: log pi - log mu of tokens, with the policy's gradient.
        advantages: of tokens, without gradient.
        clip: how far a ratio may leave 1 before its gradient is cut.

    Source: Schulman et al. (2017), https://arxiv.org/abs/1707.06347, eq. 7; the equation number is unchecked.

    Example:
        >>> loss, clipped = clipped_surrogate(torch.log(torch.tensor([1.5, 1.5])), torch.tensor([1.0, -1.0]), clip=0.2)
        >>> [round(value, 4) for value in loss.tolist()], clipped.tolist()
        ([-1.2, 1.5], [True, False])
    """
    ratio = expm1_with_linear_tail(log_ratios) + 1
    plain, cut = -advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)
    return torch.maximum(plain, cut), cut > plain
