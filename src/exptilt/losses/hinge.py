"""Hinge on the DPO margin: RSO's loss, and any other constant margin."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch.nn.functional import relu

from exptilt.kinds import PAIR
from exptilt.losses.base import Loss, log_ratios
from exptilt.settings.declaration import config
from exptilt.settings.ranges import Positive
from exptilt.types import Pair, PairLoss


@config
class Hinge(Loss):
    """Hinge on the DPO margin (the "hinge-norm" of RSO, Liu et al., 2023).

    With z the DPO margin,

        loss = max(0, margin - z)

    so a pair stops pulling once z reaches the margin, that is a log-ratio difference of margin / beta. Where policy and
    reference agree it equals the margin.

    Use when: pairs that are already right should leave the gradient.
    Known failure: no gradient at all once every pair is past the margin; nothing then holds the chosen likelihood.
    Source: https://arxiv.org/abs/2309.06657 (margin 1, as TRL's `hinge`). Deviation: the constant margin is a
    field. For the form on raw likelihoods without a reference see `slic`. The formula was checked against TRL's
    code, the equation number is unchecked.

    Example:
        >>> from exptilt.types import LogProbs, Pair
        >>> import torch
        >>> def side(total): return LogProbs.from_sums(torch.tensor([total]), torch.tensor([5]))
        >>> out = Hinge(beta=0.1)(Pair(side(-8.0), side(-14.0)), Pair(side(-10.0), side(-12.0)))
        >>> round(out.loss.item(), 6)  # 1 - 0.1 * 4
        0.6
    """

    name: Literal["hinge"] = "hinge"
    beta: Positive = 0.1
    """Scale of the log-ratios, > 0 (RSO's gamma; 0.05 to 0.1 are used)."""
    margin: Positive = 1.0
    """Constant margin, > 0, in units of beta * log-ratio."""

    kind: ClassVar = PAIR

    def __call__(self, policy: Pair, reference: Pair | None) -> PairLoss:
        """Loss and implicit rewards of each pair, (B,)."""
        chosen, rejected = log_ratios(policy, reference)
        loss = relu(self.margin - self.beta * (chosen - rejected))
        return PairLoss(loss, self.beta * chosen.detach(), self.beta * rejected.detach())
