"""SLiC-HF."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor
from torch.nn.functional import relu

from exptilt.kinds import PAIR
from exptilt.losses.base import (
    Loss,
    Normalization,
    check_pair,
    negative_log_likelihood,
)
from exptilt.settings.declaration import config
from exptilt.settings.ranges import NonNegative, Positive
from exptilt.types import Pair, PairLoss


@config
class SLiC(Loss):
    """SLiC-HF (Zhao et al., 2023): a hinge on raw log-likelihoods with NLL as regulariser.

    With log pi summed over tokens,

        loss = max(0, delta - log pi(y_chosen) + log pi(y_rejected)) + lam * NLL(y_chosen)

    Use when: chosen completions may be imitated and no reference is wanted.
    Known failure: sums favour short completions; delta is in nats of the whole sequence.
    Source: https://arxiv.org/abs/2305.10425; delta and lam as in HALOs, since the paper's could not be checked. The
    paper regularises on the SFT target; here, as in use, that is the chosen completion. The hinge against a
    reference (RSO) is `hinge`. The formula was checked against HALOs' code, the equation number is unchecked.

    Example:
        >>> from exptilt.types import LogProbs, Pair
        >>> import torch
        >>> def side(total): return LogProbs.from_sums(torch.tensor([total]), torch.tensor([4]))
        >>> round(SLiC()(Pair(side(-8.0), side(-8.5))).loss.item(), 6)  # 0.5 + 0.1 * 8
        1.3
    """

    name: Literal["slic"] = "slic"
    delta: Positive = 1.0
    """Margin in nats, > 0."""
    lam: NonNegative = 0.1
    """Weight of the NLL on the chosen completion, >= 0."""
    normalization: Normalization = "sum"
    """NLL per token of the batch, per completion by its mean (sequence), or as a sum."""

    kind: ClassVar = PAIR
    needs_reference: ClassVar[bool] = False

    @property
    def couples_batch(self) -> bool:  # type: ignore[override]
        """Through the number of tokens of the batch."""
        return self.normalization == "token"

    def __call__(self, policy: Pair, reference: Pair | None = None, weights: Tensor | None = None) -> PairLoss:
        """Loss and log-probabilities as rewards of each pair, (B,) nats."""
        check_pair(policy)
        chosen, rejected = policy.chosen.sum(), policy.rejected.sum()
        loss = relu(self.delta - chosen + rejected) + self.lam * negative_log_likelihood(
            policy.chosen, self.normalization, weights
        )
        return PairLoss(loss, chosen.detach(), rejected.detach())
