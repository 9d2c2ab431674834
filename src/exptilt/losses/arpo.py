"""Adaptive rejection preference optimization."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor
from torch.nn.functional import logsigmoid

from exptilt.kinds import PAIR
from exptilt.losses.base import Loss, Normalization, check_pair, negative_log_likelihood
from exptilt.settings.declaration import config
from exptilt.settings.ranges import NonNegative, Positive
from exptilt.types import Pair, PairLoss


@config
class ARPO(Loss):
    """Adaptive Rejection Preference Optimization (X-ALMA; Xu et al., 2024): CPO that rejects near misses less.

    With log pi summed over tokens and a the mean log-probability per token,

        t = min(scale * exp(rate * |a_chosen - a_rejected|) - 1, 1)
        loss = -log sigmoid(beta * (log pi(y_chosen) - t * log pi(y_rejected))) + nll_weight * NLL(y_chosen)

    The gradient flows through t. Two completions that the policy finds alike are hardly contrasted; from a distance of
    log(2 / scale) / rate on it is CPO.

    Use when: chosen and rejected are often near copies, as in translation, and CPO unlearns what they share.
    Known failure: at scale 0.9 equal means give t = -0.1, so the rejected completion is then imitated a little.
    Source: https://arxiv.org/abs/2410.03115 and the authors' code (scale 0.9, rate 0.4); the equation number is unchecked.

    Example:
        >>> import torch
        >>> from exptilt.types import LogProbs
        >>> def side(total): return LogProbs.from_sums(torch.tensor([total]), torch.tensor([4]))
        >>> round(ARPO(beta=0.1)(Pair(side(-8.0), side(-24.0))).loss.item(), 6)  # t 1: log(1 + e^-1.6) + 2
        2.183901
        >>> round(ARPO(beta=0.1, scale=1.0)(Pair(side(-8.0), side(-8.0))).loss.item(), 6)  # t 0: log(1 + e^0.8) + 2
        3.171101
    """

    name: Literal["arpo"] = "arpo"
    beta: Positive = 0.1
    """Scale of the log-probabilities, > 0."""
    scale: Positive = 0.9
    """Factor in t, > 0; at 1 equal completions have t = 0."""
    rate: NonNegative = 0.4
    """How fast t grows with the distance of the means, per nat, >= 0."""
    nll_weight: NonNegative = 1.0
    """Weight of the NLL on the chosen completion, >= 0."""
    normalization: Normalization = "token"
    """NLL per token of the batch, per completion by its mean (sequence), or as a sum."""

    kind: ClassVar = PAIR
    needs_reference: ClassVar[bool] = False
    needs_lengths: ClassVar[bool] = True

    @property
    def couples_batch(self) -> bool:  # type: ignore[override]
        """Through the number of tokens of the batch."""
        return self.normalization == "token"

    def __call__(self, policy: Pair, reference: Pair | None = None, weights: Tensor | None = None) -> PairLoss:
        """Loss and rewards beta * log-probability of each pair, (B,) nats."""
        check_pair(policy)
        chosen, rejected = self.beta * policy.chosen.sum(), self.beta * policy.rejected.sum()
        distance = (policy.chosen.mean() - policy.rejected.mean()).abs()
        exponent = (self.rate * distance).clamp(max=60.0)  # t is 1 long before; so exp does not overflow
        share = (self.scale * exponent.exp() - 1).clamp(max=1.0)
        contrast = -logsigmoid(chosen - share * rejected)
        loss = self.nll_weight * negative_log_likelihood(policy.chosen, self.normalization, weights) + contrast
        return PairLoss(loss, chosen.detach(), rejected.detach())
