"""SimPO and AlphaPO: rewards from the mean log-probability, without a reference."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from torch import Tensor
from torch.nn.functional import logsigmoid

from exptilt.kinds import PAIR
from exptilt.losses.base import Loss, check_pair
from exptilt.losses.stable import expm1_with_linear_tail
from exptilt.settings.declaration import config
from exptilt.settings.ranges import NonNegative, Positive, Range
from exptilt.types import Pair, PairLoss


@config
class SimPO(Loss):
    """SimPO (Meng et al., 2024): no reference, mean log-probabilities, a target margin.

    With p the mean log-probability per token,

        loss = -log sigmoid(beta * p_chosen - beta * p_rejected - gamma)

    Use when: the memory or time for a reference is missing and completions differ in length.
    Known failure: nothing holds the policy; small learning rates (3e-7 to 1e-6) are part of the method.
    Source: https://arxiv.org/abs/2405.14734, eq. 6 and the authors' code, which states gamma as a share of beta:
    the defaults are beta 2 and gamma/beta 0.5. No deviation. The equation was checked against the paper's text.

    Example:
        >>> from exptilt.types import LogProbs, Pair
        >>> import torch
        >>> def side(total): return LogProbs.from_sums(torch.tensor([total]), torch.tensor([4]))
        >>> out = SimPO(beta=2.0, gamma=1.0)(Pair(side(-8.0), side(-14.0)))
        >>> round(out.loss.item(), 6)  # 2 * 1.5 - 1 = 2
        0.126928
    """

    name: Literal["simpo"] = "simpo"
    beta: Positive = 2.0
    """Scale of the mean log-probabilities, > 0; 2.0 to 2.5, up to 10."""
    gamma: NonNegative = 1.0
    """Target margin in units of reward, >= 0; half of beta is where to start."""

    kind: ClassVar = PAIR
    needs_reference: ClassVar[bool] = False
    needs_lengths: ClassVar[bool] = True

    def __call__(self, policy: Pair, reference: Pair | None = None) -> PairLoss:
        """Loss and rewards beta * mean log-probability of each pair, (B,) nats."""
        check_pair(policy)
        chosen, rejected = self.beta * policy.chosen.mean(), self.beta * policy.rejected.mean()
        return PairLoss(-logsigmoid(chosen - rejected - self.gamma), chosen.detach(), rejected.detach())


@config
class AlphaPO(Loss):
    """AlphaPO (Gupta et al., 2025): SimPO with a curved reward.

    With p the mean log-probability per token,

        r = (1 - exp(-alpha * p)) / alpha,   loss = -log sigmoid(beta * r_chosen - beta * r_rejected - gamma)

    alpha -> 0 is SimPO. For alpha > 0 unlikely completions get steeper rewards.

    Use when: SimPO lowers the chosen likelihood too fast.
    Known failure: r grows exponentially in -p; far below typical means its gradient is huge.
    Source: https://arxiv.org/abs/2501.03884, as in TRL. Deviation: the exponential is continued by its tangent
    beyond exp(60), where float32 would overflow. The formula was checked against TRL's code, the equation number is
    unchecked.

    Example:
        >>> from exptilt.types import LogProbs, Pair
        >>> import torch
        >>> def side(total): return LogProbs.from_sums(torch.tensor([total]), torch.tensor([4]))
        >>> out = AlphaPO(alpha=0.25, beta=2.5, gamma=0.1)(Pair(side(-4.0), side(-8.0)))
        >>> round(out.chosen_reward.item(), 6)  # 2.5 * (1 - e^0.25) / 0.25
        -2.840254
    """

    name: Literal["alphapo"] = "alphapo"
    beta: Positive = 2.5
    """Scale of the rewards, > 0."""
    gamma: NonNegative = 0.1
    """Target margin in units of beta * r, >= 0."""
    alpha: Annotated[float, Range(ge=-1, le=1, other_than=0)] = 0.25
    """Curvature of the reward; not 0, which is SimPO."""

    kind: ClassVar = PAIR
    needs_reference: ClassVar[bool] = False
    needs_lengths: ClassVar[bool] = True

    def _reward(self, mean: Tensor) -> Tensor:
        return -self.beta * expm1_with_linear_tail(-self.alpha * mean) / self.alpha

    def __call__(self, policy: Pair, reference: Pair | None = None) -> PairLoss:
        """Loss and rewards of each pair, (B,)."""
        check_pair(policy)
        chosen, rejected = self._reward(policy.chosen.mean()), self._reward(policy.rejected.mean())
        return PairLoss(-logsigmoid(chosen - rejected - self.gamma), chosen.detach(), rejected.detach())
