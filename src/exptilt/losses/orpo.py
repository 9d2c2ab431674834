"""Odds-ratio preference optimization."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor
from torch.nn.functional import logsigmoid

from exptilt.kinds import PAIR
from exptilt.losses.base import Loss, Normalization, check_pair, joined, negative_log_likelihood
from exptilt.losses.stable import log_odds
from exptilt.settings.declaration import config
from exptilt.settings.ranges import NonNegative
from exptilt.types import LogProbs, Pair, PairLoss


@config
class ORPO(Loss):
    """Odds-Ratio Preference Optimization (Hong et al., 2024): imitation of the chosen plus a contrast of odds.

    With p the geometric-mean probability of a completion's tokens and odds = p / (1 - p),

        loss = NLL(y_chosen) + lam * -log sigmoid(log odds_chosen - log odds_rejected)

    Use when: going from a base model to an aligned one in a single stage.
    Known failure: the contrast is weak at lam 0.1; as p nears 1 odds are ill-defined (means above -1e-7 count as
    -1e-7).
    Source: https://arxiv.org/abs/2403.07691, eq. 6 and 7, checked against the paper's text; lam 0.1. By default the
    NLL is the paper's, of the completion given its prompt: the mean of its counted tokens; `normalization` names
    the others. The authors' code and TRL count the tokens of the prompt as well: `nll_over: all`, and
    `normalization: token` for TRL's mean over the batch. Deviations: turns of users and tools inside a completion
    are never counted. Not reproduced: the authors' code divides by the length plus one for padded rows.

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
    nll_over: Literal["completion", "all"] = "completion"
    """NLL of the chosen completion alone, or of the prompt and it (all), the first token of the prompt excepted."""

    kind: ClassVar = PAIR
    needs_reference: ClassVar[bool] = False
    needs_lengths: ClassVar[bool] = True

    @property
    def couples_batch(self) -> bool:  # type: ignore[override]
        """Through the number of tokens of the batch."""
        return self.normalization == "token"

    @property
    def inputs(self) -> tuple[str, ...]:  # type: ignore[override]
        """The prompt's log-probabilities, where they count."""
        return ("prompt",) if self.nll_over == "all" else ()

    def __call__(
        self,
        policy: Pair,
        reference: Pair | None = None,
        weights: Tensor | None = None,
        prompt: LogProbs | None = None,
    ) -> PairLoss:
        """Loss and rewards lam * mean log-probability of each pair, (B,) nats; `prompt` is read where `nll_over` is all."""
        check_pair(policy)
        chosen, rejected = policy.chosen.mean(), policy.rejected.mean()
        contrast = -logsigmoid(log_odds(chosen) - log_odds(rejected))
        imitated = policy.chosen if self.nll_over == "completion" else joined(prompt, policy.chosen)
        loss = negative_log_likelihood(imitated, self.normalization, weights) + self.lam * contrast
        return PairLoss(loss, self.lam * chosen.detach(), self.lam * rejected.detach())
