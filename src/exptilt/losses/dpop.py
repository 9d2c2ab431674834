"""DPO-Positive."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch.nn.functional import logsigmoid, relu

from exptilt.kinds import PAIR
from exptilt.losses.base import Loss, log_ratios
from exptilt.settings.declaration import config
from exptilt.settings.ranges import NonNegative, Positive
from exptilt.types import Pair, PairLoss


@config
class DPOP(Loss):
    """DPO-Positive (Pal et al., 2024): DPO with a penalty, inside the sigmoid, for a falling chosen likelihood.

    With l the log-ratio log pi/pi_ref,

        loss = -log sigmoid(beta * (l_chosen - l_rejected - lam * max(0, -l_chosen)))

    lam = 0 is DPO. Equals log 2 where policy and reference agree.

    Use when: chosen and rejected differ in a few tokens and DPO lowers both.
    Known failure: with the paper's lam of 50 one fallen completion outweighs a batch; the loss is then nearly linear.
    Source: https://arxiv.org/abs/2402.13228. The authors published no code; beta 0.3 could not be checked against
    the paper. No deviation known. Unchecked: the formula is from a description.

    Example:
        >>> from exptilt.types import LogProbs, Pair
        >>> import torch
        >>> def side(total): return LogProbs.from_sums(torch.tensor([total]), torch.tensor([5]))
        >>> out = DPOP(beta=0.1, lam=2.0)(Pair(side(-11.0), side(-15.0)), Pair(side(-10.0), side(-12.0)))
        >>> round(out.loss.item(), 6)  # the penalty 2 * 1 cancels the margin 2
        0.693147
    """

    name: Literal["dpop"] = "dpop"
    beta: Positive = 0.3
    """Strength of the pull toward the reference, > 0."""
    lam: NonNegative = 50.0
    """Weight of the penalty, >= 0."""

    kind: ClassVar = PAIR

    def __call__(self, policy: Pair, reference: Pair | None) -> PairLoss:
        """Loss and implicit rewards of each pair, (B,) nats."""
        chosen, rejected = log_ratios(policy, reference)
        loss = -logsigmoid(self.beta * (chosen - rejected - self.lam * relu(-chosen)))
        return PairLoss(loss, self.beta * chosen.detach(), self.beta * rejected.detach())
