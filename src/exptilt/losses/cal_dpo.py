"""Calibrated DPO, and the one-sided hinge form of calibration."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch.nn.functional import logsigmoid, relu

from exptilt.kinds import PAIR
from exptilt.losses.base import Loss, log_ratios
from exptilt.losses.sppo import squares_to_targets
from exptilt.settings.declaration import config
from exptilt.settings.ranges import NonNegative, Positive
from exptilt.types import Pair, PairLoss


@config
class CalDPO(Loss):
    """Calibrated DPO (Xiao et al., 2024): DPO's contrast plus squares that fix the scale of the rewards.

    With l the log-ratio log pi/pi_ref,

        loss = -log sigmoid(l_chosen - l_rejected) + weight * ((l_chosen - t)^2 + (l_rejected + t)^2), t = 1 / (2 * beta)

    There is no beta inside the sigmoid. Equals log 2 + weight / (2 * beta^2) where policy and reference agree.

    Use when: the chosen likelihood must rise in absolute terms.
    Known failure: at the defaults the squares outweigh the contrast by orders of magnitude; gradients need clipping.
    Source: https://arxiv.org/abs/2412.14516, weight 1. The authors' code uses weight 0.5 and adds the batch mean of
    the squares to every pair; mean and gradients are those of this loss, per-pair values are not. The formula was
    checked against the authors' code, the equation number is unchecked.

    Example:
        >>> from exptilt.types import LogProbs, Pair
        >>> import torch
        >>> def side(total): return LogProbs.from_sums(torch.tensor([total]), torch.tensor([5]))
        >>> out = CalDPO(beta=0.1)(Pair(side(-8.0), side(-14.0)), Pair(side(-10.0), side(-12.0)))
        >>> round(out.loss.item(), 5)  # log(1 + e^-4) + 9 + 9
        18.01815
    """

    name: Literal["cal_dpo"] = "cal_dpo"
    beta: Positive = 1e-3
    """The targets of the log-ratios are +-1 / (2 * beta); > 0."""
    weight: NonNegative = 1.0
    """Weight of the squares, >= 0: 1 in the paper, 0.5 in the authors' code."""

    kind: ClassVar = PAIR

    def __call__(self, policy: Pair, reference: Pair | None) -> PairLoss:
        """Loss and implicit rewards of each pair, (B,)."""
        chosen, rejected = log_ratios(policy, reference)
        loss = self.weight * squares_to_targets(chosen, rejected, self.beta) - logsigmoid(chosen - rejected)
        return PairLoss(loss, self.beta * chosen.detach(), self.beta * rejected.detach())


@config
class CalHingeDPO(Loss):
    """DPO with a hinge that keeps the chosen reward above tau.

    With r = beta * log pi/pi_ref,

        loss = -log sigmoid(r_chosen - r_rejected) + alpha * max(0, tau - r_chosen)

    The hinge is silent once the chosen reward is above tau. Equals log 2 + alpha * tau where policy and reference
    agree.

    Use when: "the chosen likelihood must not fall" is the whole requirement (tau = 0), or it must rise by tau / beta
    nats.
    Known failure: alpha decides between a wish and a wall; too small and DPO's push still wins.
    Source: the hinge form of calibration that circulates under the name Cal-DPO. It is not what that paper states:
    Cal-DPO is squared (`cal_dpo`). Defaults are ours. Unchecked: there is no publication.

    Example:
        >>> from exptilt.types import LogProbs, Pair
        >>> import torch
        >>> def side(total): return LogProbs.from_sums(torch.tensor([total]), torch.tensor([5]))
        >>> out = CalHingeDPO(beta=0.1, tau=0.5)(Pair(side(-8.0), side(-14.0)), Pair(side(-10.0), side(-12.0)))
        >>> round(out.loss.item(), 6)  # 0.513015 + (0.5 - 0.2)
        0.813015
    """

    name: Literal["cal_hinge_dpo"] = "cal_hinge_dpo"
    beta: Positive = 0.1
    """Strength of the pull toward the reference, > 0."""
    alpha: NonNegative = 1.0
    """Weight of the hinge, >= 0."""
    tau: NonNegative = 0.0
    """Reward the chosen completion is held above, >= 0."""

    kind: ClassVar = PAIR

    def __call__(self, policy: Pair, reference: Pair | None) -> PairLoss:
        """Loss and implicit rewards of each pair, (B,) nats."""
        chosen, rejected = (self.beta * side for side in log_ratios(policy, reference))
        loss = self.alpha * relu(self.tau - chosen) - logsigmoid(chosen - rejected)
        return PairLoss(loss, chosen.detach(), rejected.detach())
