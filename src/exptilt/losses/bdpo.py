"""Bounded DPO."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import torch
from torch.nn.functional import logsigmoid

from exptilt.kinds import PAIR
from exptilt.losses.base import Loss, log_ratios
from exptilt.settings.declaration import config
from exptilt.settings.ranges import Positive, Range
from exptilt.types import Pair, PairLoss


@config
class BDPO(Loss):
    """Bounded DPO (Cho et al., 2025): the rejected policy is mixed with the reference, so pushing it down stops paying.

    With l the log-ratio log pi/pi_ref,

        loss = -log sigmoid(beta * (l_chosen - log(lam * exp(l_rejected) + 1 - lam)))

    lam = 1 is DPO. The rejected reward cannot pass below beta * log(1 - lam). Equals log 2 at the reference, with
    gradient -beta/2 on the chosen and lam * beta/2 on the rejected log-probability.

    Use when: DPO drives rejected and then chosen likelihoods down together.
    Known failure: rejected completions the reference already finds unlikely hardly count.
    Source: https://arxiv.org/abs/2506.12725 (Findings of EMNLP 2025), as the authors describe it. No deviation
    known. The formula was checked against the authors' page, the equation number is unchecked.

    Example:
        >>> from exptilt.types import LogProbs, Pair
        >>> import torch
        >>> def side(total): return LogProbs.from_sums(torch.tensor([total]), torch.tensor([5]))
        >>> out = BDPO(beta=0.1)(Pair(side(-8.0), side(-14.0)), Pair(side(-10.0), side(-12.0)))
        >>> round(out.loss.item(), 6)  # 0.1 * (2 - log(0.5 * e^-2 + 0.5)) = 0.256622
        0.573046
    """

    name: Literal["bdpo"] = "bdpo"
    beta: Positive = 0.1
    """Strength of the pull toward the reference, > 0."""
    lam: Annotated[float, Range(gt=0, le=1)] = 0.5
    """Share of the policy in the mixture, in (0, 1]; 1 is DPO."""

    kind: ClassVar = PAIR

    def __call__(self, policy: Pair, reference: Pair | None) -> PairLoss:
        """Loss and the rewards it compares, (B,) nats."""
        chosen, rejected = log_ratios(policy, reference)
        floor = math.log1p(-self.lam) if self.lam < 1 else -math.inf
        bounded = torch.logaddexp(rejected + math.log(self.lam), rejected.new_full((), floor))
        loss = -logsigmoid(self.beta * (chosen - bounded))
        return PairLoss(loss, self.beta * chosen.detach(), self.beta * bounded.detach())
