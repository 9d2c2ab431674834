"""Chi-squared preference optimization."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor
from torch.nn.functional import logsigmoid

from exptilt.kinds import PAIR
from exptilt.losses.base import Loss, log_ratios
from exptilt.losses.stable import expm1_with_linear_tail
from exptilt.settings.declaration import config
from exptilt.settings.ranges import NonNegative, Positive
from exptilt.types import Pair, PairLoss


@config
class ChiPO(Loss):
    """Chi-squared Preference Optimization (Huang et al., 2024): DPO whose penalty also holds the chi-squared divergence.

    With u = pi/pi_ref and the link phi(u) = u + log u,

        z = beta * (phi(u_chosen) - phi(u_rejected))
        loss = -log sigmoid(clip(z, -2 * max_reward, 2 * max_reward))

    The optimum satisfies beta * phi(u) = reward + constant, so no likelihood grows exponentially in the reward: a wrong
    reward is over-optimised less. Equals log 2 where policy and reference agree.

    Use when: preferences cover little of what the policy may say, and over-optimisation is the worry.
    Known failure: u counts only where the policy has raised a likelihood; of long texts u is astronomically large or
    nothing, so the loss is DPO with a barrier. A clipped pair has no gradient.
    Source: https://arxiv.org/abs/2407.13399, algorithm; formula from its description, the equation number unchecked. Off by
    default, the clip is max_reward (R_max there). Deviation: exp(log u) is continued by its tangent beyond exp(60).

    Example:
        >>> import torch
        >>> from exptilt.types import LogProbs
        >>> def side(total): return LogProbs.from_sums(torch.tensor([total]), torch.tensor([5]))
        >>> policy, reference = Pair(side(-8.0), side(-14.0)), Pair(side(-10.0), side(-12.0))
        >>> out = ChiPO(beta=0.1)(policy, reference)
        >>> round((out.chosen_reward - out.rejected_reward).item(), 4)  # 0.1 * (2 + 2 + e^2 - e^-2)
        1.1254
    """

    name: Literal["chi_po"] = "chi_po"
    beta: Positive = 0.1
    """Strength of the pull toward the reference, > 0."""
    max_reward: NonNegative = 0.0
    """Largest reward believed in: the margin is clipped at twice this, either way. 0 does not clip."""

    kind: ClassVar = PAIR

    def __call__(self, policy: Pair, reference: Pair | None) -> PairLoss:
        """Loss of each pair, (B,) nats; the rewards are beta * phi(u), what the loss compares, less the constant beta."""
        chosen, rejected = (self.beta * _link(side) for side in log_ratios(policy, reference))
        margin = chosen - rejected
        if self.max_reward:
            margin = margin.clamp(-2 * self.max_reward, 2 * self.max_reward)
        return PairLoss(-logsigmoid(margin), chosen.detach(), rejected.detach())


def _link(log_u: Tensor) -> Tensor:
    """phi(u) - 1: the constant cancels between the two sides, and the reference has reward 0."""
    return log_u + expm1_with_linear_tail(log_u)
