"""Token-level DPO."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor
from torch.nn.functional import logsigmoid

from exptilt.kinds import PAIR
from exptilt.losses.base import Loss, log_ratios
from exptilt.settings.declaration import config
from exptilt.settings.ranges import NonNegative, Positive
from exptilt.types import LogProbs, Pair, PairLoss


@config
class TDPO1(Loss):
    """Token-level DPO, first form (Zeng et al., 2024): DPO with the sequential forward KL of both completions.

    With l the log-ratio log pi/pi_ref and D = sum_t KL(pi_ref(.|y_<t) || pi(.|y_<t)) over the completion's positions,

        loss = -log sigmoid(beta * (l_chosen - l_rejected - (D_rejected - D_chosen)))

    Equals log 2 where policy and reference agree.

    Use when: the KL divergence must be balanced between chosen and rejected side.
    Known failure: its gradient also raises the chosen side's KL; the authors prefer TDPO2.
    Source: https://arxiv.org/abs/2404.11999 and the authors' code. No deviation. The formula was checked against
    the authors' code, the equation number is unchecked.

    Example:
        >>> import torch
        >>> def side(total, kl): return LogProbs(values=torch.tensor([total]), lengths=torch.tensor([1]),
        ...                                      divergence=torch.tensor([kl]))
        >>> policy, reference = Pair(side(-8.0, 1.0), side(-14.0, 3.0)), Pair(side(-10.0, 0.0), side(-12.0, 0.0))
        >>> round(TDPO1(beta=0.1)(policy, reference).loss.item(), 6)  # 0.1 * (4 - 2)
        0.598139
    """

    name: Literal["tdpo1"] = "tdpo1"
    beta: Positive = 0.1
    """Strength of the pull toward the reference, > 0."""

    kind: ClassVar = PAIR
    needs_tokens: ClassVar[bool] = True
    byproducts: ClassVar[tuple[str, ...]] = ("divergence",)

    def __call__(self, policy: Pair, reference: Pair | None) -> PairLoss:
        """Loss and implicit rewards of each pair, (B,) nats."""
        chosen, rejected = log_ratios(policy, reference)
        gap = divergence(policy.rejected, "rejected") - divergence(policy.chosen, "chosen")
        loss = -logsigmoid(self.beta * (chosen - rejected - gap))
        return PairLoss(loss, self.beta * chosen.detach(), self.beta * rejected.detach())


@config
class TDPO2(Loss):
    """Token-level DPO, second form (Zeng et al., 2024): as TDPO1, with the chosen side's KL as a constant.

    With l the log-ratio, D = sum_t KL(pi_ref || pi) over the completion's positions and sg no gradient,

        loss = -log sigmoid(beta * (l_chosen - l_rejected - alpha * (D_rejected - sg D_chosen)))

    alpha = 0 is DPO; at alpha = 1 the value, not the gradient, is TDPO1's. Equals log 2 where policy and reference
    agree.

    Use when: diversity must be kept at a given reward.
    Known failure: needs the full distribution of policy and reference at every position.
    Source: https://arxiv.org/abs/2404.11999 and the authors' code. No deviation. The formula was checked against
    the authors' code, the equation number is unchecked.

    Example:
        >>> import torch
        >>> def side(total, kl): return LogProbs(values=torch.tensor([total]), lengths=torch.tensor([1]),
        ...                                      divergence=torch.tensor([kl]))
        >>> policy, reference = Pair(side(-8.0, 1.0), side(-14.0, 5.0)), Pair(side(-10.0, 0.0), side(-12.0, 0.0))
        >>> round(TDPO2(beta=0.1, alpha=0.5)(policy, reference).loss.item(), 6)  # 0.1 * (4 - 0.5 * 4)
        0.598139
    """

    name: Literal["tdpo2"] = "tdpo2"
    beta: Positive = 0.1
    """Strength of the pull toward the reference, > 0."""
    alpha: NonNegative = 0.5
    """Weight of the KL difference, >= 0."""

    kind: ClassVar = PAIR
    needs_tokens: ClassVar[bool] = True
    byproducts: ClassVar[tuple[str, ...]] = ("divergence",)

    def __call__(self, policy: Pair, reference: Pair | None) -> PairLoss:
        """Loss and implicit rewards of each pair, (B,) nats."""
        chosen, rejected = log_ratios(policy, reference)
        gap = divergence(policy.rejected, "rejected") - divergence(policy.chosen, "chosen").detach()
        loss = -logsigmoid(self.beta * (chosen - rejected - self.alpha * gap))
        return PairLoss(loss, self.beta * chosen.detach(), self.beta * rejected.detach())


def divergence(logps: LogProbs, side: str) -> Tensor:
    """(B,) sequential KL(pi_ref || pi) of each completion, nats."""
    if logps.divergence is None:
        raise ValueError(
            f"policy.{side}.divergence is missing; the policy must fill KL(reference || policy) per position"
        )
    return logps.sum_of(logps.divergence)
