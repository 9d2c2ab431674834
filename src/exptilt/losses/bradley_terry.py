"""Bradley-Terry loss of a reward model."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Literal

from torch import Tensor
from torch.nn.functional import softplus

from exptilt.kinds import REWARD
from exptilt.losses.base import Loss, check_column
from exptilt.settings.declaration import config
from exptilt.settings.ranges import NonNegative
from exptilt.types import PairLoss, at_least_float32


@config
class BradleyTerry(Loss):
    """Reward model from pairs: negative Bradley-Terry log-likelihood, with an optional margin and centring.

    With r the model's scores and m the margin of a pair (0 if none is given),

        loss = -log sigmoid(r_chosen - r_rejected - margin_scale m) + centering * (r_chosen + r_rejected)^2

    Only differences of rewards are determined; centring fixes their mean at zero and is what makes scores of different
    prompts comparable. A soft label p_chosen mixes the loss with that of the exchanged pair.

    Use when: training a reward model. Margins say how clear a preference is (Llama 2: 1, 2/3, 1/3, 0). A margin that comes
    from two scores of a row (0 to 10, say) is on their scale: bring it to about 1 by `margin_scale`, or set that to 0.
    Known failure: without centring, rewards drift by a constant per prompt.
    Source: Bradley & Terry (1952); margins https://arxiv.org/abs/2307.09288; centring https://arxiv.org/abs/2312.09244
    with 0.01 as used in TRL, off by default. TRL reads margins of a column `margin` alone; here also the difference of two
    scores is one. The formula was checked against TRL's code, the equation number is unchecked.

    Example:
        >>> import torch
        >>> out = BradleyTerry(centering=0.01)(torch.tensor([2.0]), torch.tensor([1.0]), margin=torch.tensor([1.0]))
        >>> round(out.loss.item(), 6)  # log 2 + 0.01 * 9
        0.783147
    """

    name: Literal["bradley_terry"] = "bradley_terry"
    centering: NonNegative = 0.0
    """Weight of the squared sum of both rewards, >= 0; 0.01 is used."""
    margin_scale: NonNegative = 1.0
    """What the margins of rows are multiplied by, >= 0; 0 ignores them."""

    kind: ClassVar = REWARD
    needs_reference: ClassVar[bool] = False
    inputs: ClassVar[tuple[str, ...]] = ("margin",)
    if_missing: ClassVar[Mapping[str, float]] = MappingProxyType({"margin": 0.0})

    def __call__(self, chosen: Tensor, rejected: Tensor, margin: Tensor | None = None) -> PairLoss:
        """Loss of each pair, (B,) nats, from (B,) rewards."""
        if chosen.shape != rejected.shape or chosen.ndim != 1:
            raise ValueError(
                f"chosen and rejected must share one shape (B,), got {tuple(chosen.shape)} and {tuple(rejected.shape)}"
            )
        chosen, rejected = at_least_float32(chosen), at_least_float32(rejected)
        gap = chosen - rejected
        if margin is not None:
            gap = gap - self.margin_scale * check_column("margin", margin, len(chosen)).to(gap)
        loss = softplus(-gap) + self.centering * (chosen + rejected).square()
        return PairLoss(loss, chosen.detach(), rejected.detach())
