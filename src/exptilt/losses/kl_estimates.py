"""Estimators of KL(policy || reference) from samples of the policy, token by token; and what their gradients are.

With d = log pi(y_t) - log pi_ref(y_t) of a token that the policy drew, each of these has a mean that is a divergence of the
token's distribution; summed over a sample they estimate that of sequences (in nats; never a mean over tokens).

    name   formula           mean over samples                     gradient of the mean of its sum, as a loss
    k1     d                 KL(pi || ref)                         0
    k2     d^2 / 2           about KL(pi || ref), biased           that of KL(pi || ref), over whole sequences
    k3     exp(-d) - 1 + d   KL(pi || ref)                         that of KL(ref || pi): the other direction

The gradient is that of the formula on fixed samples, which is what a loss has. k1 in the *reward*, with the policy gradient, has
the gradient of KL(pi || ref) too. What holds of the gradients of k2 and k3 holds where the sum over the whole sample stands in
the formula; of sums of formulas of single tokens it holds with each prefix as it was drawn.

Source: Schulman's note on approximating KL (2020) for the names; the gradients are those of https://arxiv.org/abs/2506.09477.
The tests derive them by enumeration.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from exptilt.losses.base import check_same_completions
from exptilt.losses.stable import expm1_with_linear_tail
from exptilt.types import LogProbs, at_least_float32

Estimator = Literal["k1", "k2", "k3"]


def token_log_ratios(policy: LogProbs, reference: LogProbs | None) -> Tensor:
    """(N,) log pi(y_t) - log pi_ref(y_t) of every counted token, nats."""
    check_same_completions("samples", policy, reference)
    assert reference is not None  # noqa: S101  (checked one line up; tells the type checker)
    return at_least_float32(policy.tokens()) - at_least_float32(reference.tokens())


def kl_of_tokens(log_ratios: Tensor, estimator: Estimator = "k1") -> Tensor:
    """The estimate of each log-ratio, of the same shape, with its gradient.

    Example:
        >>> import torch
        >>> ratio = torch.tensor([0.5])
        >>> [round(kl_of_tokens(ratio, name).item(), 6) for name in ("k1", "k2", "k3")]
        [0.5, 0.125, 0.106531]
    """
    if estimator == "k1":
        return log_ratios
    if estimator == "k2":
        return log_ratios**2 / 2
    return expm1_with_linear_tail(-log_ratios) + log_ratios


def sequence_kl_estimate(policy: LogProbs, reference: LogProbs | None, estimator: Estimator = "k1") -> Tensor:
    """(B,) the estimates summed over each sample, nats.

    Example:
        >>> import torch
        >>> policy = LogProbs(values=torch.tensor([-1.0, -2.0]), lengths=torch.tensor([2]))
        >>> reference = LogProbs(values=torch.tensor([-1.5, -2.5]), lengths=torch.tensor([2]))
        >>> sequence_kl_estimate(policy, reference).tolist()
        [1.0]
    """
    return policy.sum_of(kl_of_tokens(token_log_ratios(policy, reference), estimator))


def rao_blackwell_kl(policy: LogProbs) -> Tensor:
    """(B,) sums over each sample of KL(pi(. | y_<t) || ref(. | y_<t)) of its steps, nats; needs the by-product `kl`.

    It has the mean of k1 with a fraction of its variance, and is never negative.

    Raises:
        ValueError: `policy.kl` is missing.

    Source: Amini, Vieira and Cotterell (2025), https://arxiv.org/abs/2504.10637.
    """
    if policy.kl is None:
        raise ValueError("policy.kl is missing; the policy must fill KL(policy || reference) per position")
    return policy.sum_of(policy.kl)
