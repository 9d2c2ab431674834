"""Exploratory preference optimization."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from exptilt.kinds import PAIR
from exptilt.losses.base import Loss, check_column, log_ratios
from exptilt.settings.declaration import config
from exptilt.settings.ranges import NonNegative, Positive
from exptilt.types import Pair, PairLoss


@config
class XPO(Loss):
    """Exploratory Preference Optimization (Xie et al., 2024): DPO on one sample of the policy and one of the reference.

    With z the DPO margin and y_ref the completion of the pair that the reference sampled,

        loss = -log sigmoid(z) + alpha * log pi(y_ref|x)

    The second term pushes probability away from what the reference would say, which is the exploration. alpha = 0 is
    DPO.

    Use when: training online with a judge.
    Known failure: the term is linear and unbounded below; alpha must stay small.
    Source: https://arxiv.org/abs/2405.21046; default alpha as in TRL's XPO trainer, since the paper gives none. The
    formula was checked against TRL's code, the equation number is unchecked.

    Example:
        >>> from exptilt.types import LogProbs, Pair
        >>> def side(total): return LogProbs.from_sums(torch.tensor([total]), torch.tensor([5]))
        >>> policy, reference = Pair(side(-8.0), side(-14.0)), Pair(side(-10.0), side(-12.0))
        >>> out = XPO(beta=0.1, alpha=0.01)(policy, reference, chosen_is_policy=torch.tensor([True]))
        >>> round(out.loss.item(), 6)  # 0.513015 + 0.01 * -14
        0.373015
    """

    name: Literal["xpo"] = "xpo"
    beta: Positive = 0.1
    """Strength of the pull toward the reference, > 0."""
    alpha: NonNegative = 1e-5
    """Weight of the exploration term, >= 0."""

    kind: ClassVar = PAIR
    inputs: ClassVar[tuple[str, ...]] = ("chosen_is_policy",)

    def __call__(self, policy: Pair, reference: Pair | None, chosen_is_policy: Tensor) -> PairLoss:
        """Loss and implicit rewards of each pair, (B,) nats."""
        chosen, rejected = (self.beta * side for side in log_ratios(policy, reference))
        from_policy = check_column("chosen_is_policy", chosen_is_policy, len(chosen)).to(chosen.device).bool()
        of_reference = torch.where(from_policy, policy.rejected.sum(), policy.chosen.sum())
        loss = -logsigmoid(chosen - rejected) + self.alpha * of_reference
        return PairLoss(loss, chosen.detach(), rejected.detach())
