"""DPO with an offset."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor
from torch.nn.functional import logsigmoid

from exptilt.kinds import PAIR
from exptilt.losses.base import Loss, check_column, log_ratios
from exptilt.settings.declaration import config
from exptilt.settings.ranges import NonNegative, Positive
from exptilt.types import Pair, PairLoss


@config
class ODPO(Loss):
    """DPO with an offset (Amini et al., 2024): clearer preferences must be separated by more.

    With z the DPO margin and `margin` the score of the chosen minus that of the rejected completion,

        loss = -log sigmoid(z - alpha * f(margin)),   f = log or identity

    alpha = 0 is DPO.

    Use when: a score says how much better the chosen completion is.
    Known failure: log of a gap near zero is a large negative offset; drop or floor near-ties in the data.
    Source: https://arxiv.org/abs/2402.10571; f = log is the authors' main choice. No deviation. The formula was
    checked against the authors' code, the equation number is unchecked.

    Example:
        >>> from exptilt.types import LogProbs, Pair
        >>> import torch
        >>> def side(total): return LogProbs.from_sums(torch.tensor([total]), torch.tensor([5]))
        >>> policy, reference = Pair(side(-8.0), side(-14.0)), Pair(side(-10.0), side(-12.0))
        >>> out = ODPO(beta=0.1, scale="identity")(policy, reference, margin=torch.tensor([0.4]))
        >>> round(out.loss.item(), 6)  # z 0.4, offset 0.4
        0.693147
    """

    name: Literal["odpo"] = "odpo"
    beta: Positive = 0.1
    """Strength of the pull toward the reference, > 0."""
    alpha: NonNegative = 1.0
    """Weight of the offset, >= 0."""
    scale: Literal["log", "identity"] = "log"
    """How a score gap becomes an offset."""

    kind: ClassVar = PAIR
    inputs: ClassVar[tuple[str, ...]] = ("margin",)

    def __call__(self, policy: Pair, reference: Pair | None, margin: Tensor) -> PairLoss:
        """Loss and implicit rewards of each pair, (B,) nats; `margin` is (B,) and > 0."""
        chosen, rejected = (self.beta * side for side in log_ratios(policy, reference))
        gap = check_column("margin", margin, len(chosen)).to(chosen)
        if not bool((gap > 0).all()):
            row = int((~(gap > 0)).nonzero()[0])
            raise ValueError(
                f"margin must be > 0 (the chosen completion scores higher), got {float(gap[row])} in row {row}"
            )
        offset = self.alpha * (gap.log() if self.scale == "log" else gap)
        return PairLoss(-logsigmoid(chosen - rejected - offset), chosen.detach(), rejected.detach())
