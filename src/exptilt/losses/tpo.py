"""Triple preference optimization."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from exptilt.kinds import LIST
from exptilt.losses.base import Loss, Normalization, check_column, negative_log_likelihood
from exptilt.losses.lists import rows_of
from exptilt.settings.declaration import config
from exptilt.settings.ranges import NonNegative, Positive
from exptilt.types import ListLoss, LogProbs


@config
class TPO(Loss):
    """Triple Preference Optimization (Saeidi et al., 2024): imitate a gold answer, contrast the two below it.

    A row has three completions, ranked 1, 2 and 3: gold, chosen and rejected. With log pi summed over tokens, or their
    mean if `length_normalized`,

        loss = -log sigmoid(beta * (log pi(y_chosen) - log pi(y_rejected)) - gamma) + alpha * NLL(y_gold)

    In a longer list the first of the best is gold and the contrast is the mean over all pairs of the others that a rank
    tells apart; a list of two is imitated only.

    Use when: a reference answer of people or of a better model stands beside two answers of the policy.
    Known failure: no reference model; sums favour the shorter of the two, and only the gold answer holds the policy.
    Source: https://arxiv.org/abs/2405.16681 and TRL's `TPOTrainer`; `length_normalized` with gamma > 0 is TPO-L. The
    equation number is unchecked. NLL is the mean of each gold answer; TRL's is per token of the batch (`normalization`).

    Example:
        >>> logps = LogProbs.from_sums(torch.tensor([-2.0, -8.0, -12.0]), torch.tensor([2, 4, 4]))
        >>> out = TPO(beta=0.1)(logps, None, torch.tensor([3]), torch.tensor([1, 2, 3]))
        >>> round(out.loss.item(), 6)  # log(1 + e^-0.4) + 2 / 2
        1.513015
    """

    name: Literal["tpo"] = "tpo"
    beta: Positive = 0.01
    """Scale of the log-probabilities, > 0."""
    alpha: NonNegative = 1.0
    """Weight of the NLL on the gold completion, >= 0."""
    gamma: NonNegative = 0.0
    """Margin that the contrast must reach, >= 0."""
    length_normalized: bool = False
    """Contrast means per token (TPO-L) in place of sums."""
    normalization: Normalization = "sequence"
    """NLL per token of the batch, per gold completion by its mean (sequence), or as a sum."""

    kind: ClassVar = LIST
    needs_reference: ClassVar[bool] = False
    needs_lengths: ClassVar[bool] = True
    inputs: ClassVar[tuple[str, ...]] = ("ranks",)

    @property
    def couples_batch(self) -> bool:  # type: ignore[override]
        """Through the number of tokens of the batch."""
        return self.normalization == "token"

    def __call__(
        self,
        policy: LogProbs,
        reference: LogProbs | None,
        sizes: Tensor,
        ranks: Tensor,
        weights: Tensor | None = None,
    ) -> ListLoss:
        """Loss of each group, (G,) nats; rewards are beta times the (mean) log-probabilities, (B,)."""
        compared = policy.mean() if self.length_normalized else policy.sum()
        rows = rows_of(sizes, compared)
        rank = rows.spread(check_column("ranks", ranks, len(policy)).to(compared), fill=torch.inf)
        best = rank.argmin(dim=1)
        gold = best + rows.sizes.cumsum(0) - rows.sizes
        imitation = negative_log_likelihood(policy.select(gold.to(policy.lengths.device)), self.normalization, weights)
        contrast = self._contrast(rows.spread(compared), rank.scatter(1, best.unsqueeze(1), torch.inf))
        return ListLoss(contrast + self.alpha * imitation, self.beta * compared.detach())

    def _contrast(self, compared: Tensor, rank: Tensor) -> Tensor:
        """(G,) mean over pairs of completions with a finite rank, both (G, K), the better against the worse."""
        above = (rank.unsqueeze(2) < rank.unsqueeze(1)) & rank.isfinite().unsqueeze(1)
        margin = self.beta * (compared.unsqueeze(2) - compared.unsqueeze(1)) - self.gamma
        total = torch.where(above, -logsigmoid(margin), 0.0).sum(dim=(1, 2))
        return total / above.sum(dim=(1, 2)).clamp(min=1)
