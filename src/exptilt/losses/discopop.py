"""DiscoPOP's discovered loss."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from torch.nn.functional import logsigmoid, softplus

from exptilt.kinds import PAIR
from exptilt.losses.base import Loss, log_ratios
from exptilt.settings.declaration import config
from exptilt.settings.ranges import Positive, Range
from exptilt.types import Pair, PairLoss


@config
class DiscoPOP(Loss):
    """DiscoPOP, the log-ratio-modulated loss (Lu et al., 2024): a blend of logistic and exponential loss.

    With z the DPO margin and g = sigmoid(z / tau),

        loss = (1 - g) * -log sigmoid(z) + g * exp(-z)

    Equals (log 2 + 1) / 2 = 0.846574 where policy and reference agree.

    Use when: reproducing the paper; it was found by search, not derived.
    Known failure: not monotone. At z = 0 the slope is +0.784 (tau 0.05): descent from the reference first lowers the
    margin, to a local minimum at z = -0.1186; the barrier is at z = +0.0720.
    Source: https://arxiv.org/abs/2406.08414, eq. 5 (number as cited by TRL's `discopop`). No deviation. The formula
    was checked against the authors' code, the equation number is unchecked.

    Example:
        >>> from exptilt.types import LogProbs, Pair
        >>> at_reference = Pair(*(LogProbs.from_sums(torch.tensor([-8.0]), torch.tensor([5])) for _ in range(2)))
        >>> round(DiscoPOP()(at_reference, at_reference).loss.item(), 6)
        0.846574
    """

    name: Literal["discopop"] = "discopop"
    beta: Positive = 0.05
    """Strength of the pull toward the reference, > 0."""
    tau: Annotated[float, Range(gt=0, le=1)] = 0.05
    """Temperature of the blend, in (0, 1]; above 1 the loss explodes for negative margins."""

    kind: ClassVar = PAIR

    def __call__(self, policy: Pair, reference: Pair | None) -> PairLoss:
        """Loss and implicit rewards of each pair, (B,)."""
        chosen, rejected = (self.beta * side for side in log_ratios(policy, reference))
        margin = chosen - rejected
        logistic = (-margin / self.tau).sigmoid() * softplus(-margin)
        # One exponent: sigmoid underflows long before exp(-z) stops mattering.
        exponential = torch.exp(logsigmoid(margin / self.tau) - margin)
        return PairLoss(logistic + exponential, chosen.detach(), rejected.detach())
