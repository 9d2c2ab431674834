"""Contrastive preference optimization."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor
from torch.nn.functional import logsigmoid

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
class CPO(Loss):
    """Contrastive Preference Optimization (Xu et al., 2024): DPO with a uniform reference, plus NLL on the chosen.

    With log pi summed over tokens,

        loss = -log sigmoid(beta * (log pi(y_chosen) - log pi(y_rejected))) + nll_weight * NLL(y_chosen)

    nll_weight = 0 is DPO without a reference.

    Use when: chosen completions are good enough to imitate and no reference fits in memory.
    Known failure: sums favour short completions; the NLL term alone holds the policy.
    Source: https://arxiv.org/abs/2401.08417 and the authors' first code (their later ARPO variant scales the
    rejected side). NLL is the token mean over the batch as there; `normalization` names the others. The formula was
    checked against the authors' code, the equation number is unchecked.

    Example:
        >>> from exptilt.types import LogProbs, Pair
        >>> import torch
        >>> def side(total): return LogProbs.from_sums(torch.tensor([total]), torch.tensor([4]))
        >>> round(CPO(beta=0.1)(Pair(side(-8.0), side(-12.0))).loss.item(), 6)  # 0.513015 + 8 / 4
        2.513015
    """

    name: Literal["cpo"] = "cpo"
    beta: Positive = 0.1
    """Scale of the log-probabilities, > 0."""
    nll_weight: NonNegative = 1.0
    """Weight of the NLL on the chosen completion, >= 0."""
    normalization: Normalization = "token"
    """NLL per token of the batch, per completion by its mean (sequence), or as a sum."""

    kind: ClassVar = PAIR
    needs_reference: ClassVar[bool] = False

    @property
    def needs_lengths(self) -> bool:  # type: ignore[override]
        """Unless there is no NLL, or it is a sum."""
        return self.nll_weight > 0 and self.normalization != "sum"

    @property
    def couples_batch(self) -> bool:  # type: ignore[override]
        """Through the number of tokens of the batch."""
        return self.normalization == "token"

    def __call__(self, policy: Pair, reference: Pair | None = None, weights: Tensor | None = None) -> PairLoss:
        """Loss and rewards beta * log-probability of each pair, (B,) nats."""
        check_pair(policy)
        chosen, rejected = self.beta * policy.chosen.sum(), self.beta * policy.rejected.sum()
        loss = self.nll_weight * negative_log_likelihood(policy.chosen, self.normalization, weights) - logsigmoid(
            chosen - rejected
        )
        return PairLoss(loss, chosen.detach(), rejected.detach())
