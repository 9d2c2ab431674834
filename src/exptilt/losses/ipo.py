"""Identity Preference Optimization."""

from __future__ import annotations

from typing import ClassVar, Literal

from exptilt.kinds import PAIR
from exptilt.losses.base import Loss, log_ratios, mean_log_ratios
from exptilt.settings.declaration import config
from exptilt.settings.ranges import Positive
from exptilt.types import Pair, PairLoss


@config
class IPO(Loss):
    """Identity Preference Optimization (Azar et al., 2023).

    With h the difference of the two log-ratios log pi/pi_ref,

        loss = (h - 1 / (2 * beta))^2

    so the optimum is finite, h = 1 / (2 * beta), even for labels without noise. `beta` is the paper's tau. Where policy
    and reference agree the loss is (1 / (2 * beta))^2, which is large for small beta.

    Use when: labels are nearly deterministic and DPO runs away.
    Known failure: its gradient grows with the log-ratio, so outliers need gradient clipping.
    Source: https://arxiv.org/abs/2310.12036, eq. 17, on sums as in the paper. Deviation, off by default:
    `length_normalized` takes means per token, the form the authors named as the one behind their results and that
    TRL and HALOs use. The reported rewards are beta times the same log-ratios the loss uses. The equation was
    checked against the paper's text.

    Example:
        >>> from exptilt.types import LogProbs, Pair
        >>> import torch
        >>> def side(total): return LogProbs.from_sums(torch.tensor([total]), torch.tensor([4]))
        >>> policy, reference = Pair(side(-8.0), side(-14.0)), Pair(side(-10.0), side(-12.0))
        >>> IPO(beta=0.1)(policy, reference).loss.item()  # (4 - 5)^2
        1.0
        >>> IPO(beta=0.1, length_normalized=True)(policy, reference).loss.item()  # (1 - 5)^2
        16.0
    """

    name: Literal["ipo"] = "ipo"
    beta: Positive = 0.1
    """The paper's tau, > 0: the target of the log-ratio difference is 1 / (2 * beta)."""
    length_normalized: bool = False
    """Use means per token instead of sums."""

    kind: ClassVar = PAIR

    @property
    def needs_lengths(self) -> bool:  # type: ignore[override]
        """Only where means are used."""
        return self.length_normalized

    def __call__(self, policy: Pair, reference: Pair | None) -> PairLoss:
        """Loss and implicit rewards of each pair, (B,)."""
        ratios = mean_log_ratios if self.length_normalized else log_ratios
        chosen, rejected = ratios(policy, reference)
        loss = (chosen - rejected - 1 / (2 * self.beta)).square()
        return PairLoss(loss, self.beta * chosen.detach(), self.beta * rejected.detach())
