"""Weighted preference optimization."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor
from torch.nn.functional import logsigmoid

from exptilt.kinds import PAIR
from exptilt.losses.base import Loss, log_ratios
from exptilt.settings.declaration import config
from exptilt.settings.ranges import Positive
from exptilt.types import LogProbs, Pair, PairLoss, at_least_float32


@config
class WPO(Loss):
    """Weighted Preference Optimization (Zhou et al., 2024): DPO with pairs weighted by how on-policy they are.

    With z the DPO margin and, for each completion, w = exp(mean_t(log pi(y_t) - log sum_v pi(v)^2)), not
    differentiated,

        loss = min(w_chosen * w_rejected, 1) * -log sigmoid(z)

    The mean over the batch is over pairs, not over weights.

    Use when: pairs come from other models than the policy.
    Known failure: off-policy data gets small weights throughout, which acts as a small learning rate.
    Source: https://arxiv.org/abs/2406.11827 and the authors' code, which caps the product at 1. Deviation, off by
    default: `cap: false`, as TRL from 0.29. The formula was checked against the authors' code, the equation number
    is unchecked.

    Example:
        >>> import torch
        >>> def side(total, squares): return LogProbs(values=torch.tensor([total]), lengths=torch.tensor([1]),
        ...                                           log_sum_squares=torch.tensor([squares]))
        >>> policy, reference = Pair(side(-2.0, -1.0), side(-8.0, -8.0)), Pair(side(-4.0, 0.0), side(-6.0, 0.0))
        >>> round(WPO(beta=0.1)(policy, reference).loss.item(), 6)  # e^-1 * 0.513015
        0.188728
    """

    name: Literal["wpo"] = "wpo"
    beta: Positive = 0.01
    """Strength of the pull toward the reference, > 0."""
    cap: bool = True
    """Cap the weight of a pair at 1."""

    kind: ClassVar = PAIR
    needs_lengths: ClassVar[bool] = True
    needs_tokens: ClassVar[bool] = True
    byproducts: ClassVar[tuple[str, ...]] = ("log_sum_squares",)

    def __call__(self, policy: Pair, reference: Pair | None) -> PairLoss:
        """Loss and implicit rewards of each pair, (B,) nats."""
        chosen, rejected = (self.beta * side for side in log_ratios(policy, reference))
        log_weight = _log_weight(policy.chosen, "chosen") + _log_weight(policy.rejected, "rejected")
        weight = (log_weight.clamp(max=0.0) if self.cap else log_weight).exp()
        return PairLoss(weight * -logsigmoid(chosen - rejected), chosen.detach(), rejected.detach())


def _log_weight(logps: LogProbs, side: str) -> Tensor:
    """(B,) mean over tokens of log pi(y_t) - log sum_v pi(v)^2, without gradient."""
    if logps.log_sum_squares is None:
        raise ValueError(f"policy.{side}.log_sum_squares is missing; the policy must fill log sum_v p_v^2 per position")
    excess = at_least_float32(logps.tokens().detach()) - at_least_float32(logps.log_sum_squares.detach())
    total = logps.sum_of(excess)
    return total / logps.nonempty_lengths().to(total.device)
