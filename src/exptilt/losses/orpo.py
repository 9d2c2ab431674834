"""Odds-ratio preference optimization."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor
from torch.nn.functional import logsigmoid

from exptilt.kinds import PAIR
from exptilt.losses.base import Loss, Normalization, check_pair, negative_log_likelihood
from exptilt.losses.stable import log_odds
from exptilt.settings.declaration import config
from exptilt.settings.ranges import NonNegative
from exptilt.types import Pair, PairLoss


@config
class ORPO(Loss):
    """Odds-Ratio Preference Optimization (Hong et al., 2024): imitation of the chosen plus a contrast of odds.

    With p the geometric-mean probability of a completion's tokens and odds = p / (1 - p),

        loss = NLL(y_chosen) + lam * -log sigmoid(log odds_chosen - log odds_rejected)

    Use when: going from a base model to an aligned one in a single stage.
    Known failure: the contrast is weak at lam 0.1; as p nears 1 odds are ill-defined (means above -1e-7 count as
    -1e-7).
    Source: https://arxiv.org/abs/2403.07691, lam 0.1. NLL is over the completion's counted tokens; the authors' code
    and TRL also count the prompt's. Not reproduced: the authors' code divides by the length plus one for padded rows.
    NLL is the mean of each completion, `normalization` names the others.

    Example:
        >>> from exptilt.types import LogProbs, Pair
        >>> import torch
        >>> def side(p): return LogProbs.from_sums(torch.tensor([p]).log() * 4, torch.tensor([4]))
        >>> round(ORPO(lam=0.5)(Pair(side(0.5), side(0.25))).loss.item(), 6)  # log 2 + 0.5 * log(1 + 1/3)
        0.836988
    """

    name: Literal["orpo"] = "orpo"
    lam: NonNegative = 0.1
    """Weight of the odds-ratio term, >= 0."""
    normalization: Normalization = "sequence"
    """NLL per token of the batch, per completion by its mean (sequence), or as a sum."""

    kind: ClassVar = PAIR
    needs_reference: ClassVar[bool] = False
    needs_lengths: ClassVar[bool] = True

    @property
    def couples_batch(self) -> bool:  # type: ignore[override]
        """Through the number of tokens of the batch."""
        return self.normalization == "token"

    def __call__(self, policy: Pair, reference: Pair | None = None, weights: Tensor | None = None) -> PairLoss:
        """Loss and rewards lam * mean log-probability of each pair, (B,) nats."""
        check_pair(policy)
        chosen, rejected = policy.chosen.mean(), policy.rejected.mean()
        contrast = -logsigmoid(log_odds(chosen) - log_odds(rejected))
        loss = negative_log_likelihood(policy.chosen, self.normalization, weights) + self.lam * contrast
        return PairLoss(loss, self.lam * chosen.detach(), self.lam * rejected.detach())
