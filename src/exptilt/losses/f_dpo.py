"""DPO under other f-divergences."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from exptilt.kinds import PAIR
from exptilt.losses.base import Loss, log_ratios
from exptilt.losses.stable import expm1_with_linear_tail
from exptilt.settings.declaration import config
from exptilt.settings.ranges import Positive, Range
from exptilt.types import Pair, PairLoss


@config
class FDPO(Loss):
    """f-DPO (Wang et al., 2024): DPO for a penalty other than the reverse KL divergence.

    With u = pi/pi_ref and f' the derivative of the generator of the divergence,

        loss = -log sigmoid(beta * (f'(u_chosen) - f'(u_rejected)))

    reverse_kl has f' = log u (this is DPO), forward_kl -1/u, js log(2u / (1 + u)), alpha (1 - u^-a) / a with a in (0,
    1). The alpha form tends to reverse KL as a -> 0 and is forward KL at a = 1 up to a constant that cancels. Equals
    log 2 at the reference.

    Use when: diversity matters (forward KL, JS and alpha cover more modes than reverse KL).
    Known failure: 1/u explodes where a likelihood has fallen, so forward_kl and alpha need small learning rates.
    Source: https://arxiv.org/abs/2309.16240 and the authors' code. TRL from 0.29 writes alpha as 1 - a. Deviation:
    exponentials are continued by their tangent beyond exp(60), where float32 would overflow. The formula was
    checked against the authors' code, the equation number is unchecked.

    Example:
        >>> from exptilt.types import LogProbs, Pair
        >>> import torch
        >>> def side(total): return LogProbs.from_sums(torch.tensor([total]), torch.tensor([5]))
        >>> policy, reference = Pair(side(-8.0), side(-14.0)), Pair(side(-10.0), side(-12.0))
        >>> round(FDPO(divergence="js")(policy, reference).loss.item(), 6)  # z = 0.1 * (2.126928 - 0.126928) - 0
        0.598139
    """

    name: Literal["f_dpo"] = "f_dpo"
    beta: Positive = 0.1
    """Strength of the pull toward the reference, > 0."""
    divergence: Literal["reverse_kl", "forward_kl", "js", "alpha"] = "js"
    """Which divergence holds the policy to the reference."""
    alpha: Annotated[float, Range(gt=0, lt=1)] = 0.5
    """Order of the alpha-divergence, in (0, 1); read only with divergence alpha."""

    kind: ClassVar = PAIR

    def _slope(self, log_u: Tensor) -> Tensor:
        # Constants are left out: they cancel between the two sides.
        if self.divergence == "reverse_kl":
            return log_u
        if self.divergence == "forward_kl":
            return -expm1_with_linear_tail(-log_u)
        if self.divergence == "js":
            return math.log(2) - softplus(-log_u)
        return -expm1_with_linear_tail(-self.alpha * log_u) / self.alpha

    def __call__(self, policy: Pair, reference: Pair | None) -> PairLoss:
        """Loss of each pair, (B,) nats; the rewards are beta * f'(u), what the loss compares."""
        chosen, rejected = (self.beta * self._slope(side) for side in log_ratios(policy, reference))
        return PairLoss(-logsigmoid(chosen - rejected), chosen.detach(), rejected.detach())
