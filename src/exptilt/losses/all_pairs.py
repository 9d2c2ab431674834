"""DPO on every pair of a list."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from exptilt.kinds import LIST
from exptilt.losses.base import Loss, check_column, log_ratio
from exptilt.losses.lists import rows_of
from exptilt.settings.declaration import config
from exptilt.settings.ranges import Positive
from exptilt.types import ListLoss, LogProbs


@config
class AllPairsDPO(Loss):
    """DPO on every pair of a ranking: each completion against each that is ranked below it.

    With r = beta * log pi/pi_ref and P the pairs (i, j) of a group in which i is ranked above j,

        loss = (1 / |P|) sum_{(i, j) in P} -log sigmoid(r_i - r_j)

    or the sum, by `reduction`. Equal ranks make no pair. The prompt is read once for all its pairs. For two completions
    it is DPO; equals log 2 where policy and reference agree.

    Use when: rankings are trained on and pairs are what is believed, as for reward models of InstructGPT's kind.
    Known failure: the pairs of one ranking are not independent; a list of K counts like one pair (mean) or like
    K (K - 1) / 2 (sum). A group of equals alone has loss 0.
    Source: DPO (https://arxiv.org/abs/2305.18290, eq. 7) on all pairs; their sum is eq. 5 of
    https://arxiv.org/abs/2402.01878, both checked against the papers' text. The mean over a prompt's pairs is that of
    https://arxiv.org/abs/2203.02155 for reward models, unchecked.

    Example:
        >>> logps = LogProbs.from_sums(torch.tensor([-3.0, -3.0, -4.0]), torch.tensor([2, 2, 2]))
        >>> ranks, sizes = torch.tensor([2, 1, 3]), torch.tensor([3])
        >>> round(AllPairsDPO(reduction="sum")(logps, logps, sizes, ranks).loss.item(), 6)  # 3 log 2
        2.079442
    """

    name: Literal["all_pairs_dpo"] = "all_pairs_dpo"
    beta: Positive = 0.1
    """Strength of the pull toward the reference, > 0."""
    reduction: Literal["mean", "sum"] = "mean"
    """Whether the pairs of a group are averaged or added up."""

    kind: ClassVar = LIST
    inputs: ClassVar[tuple[str, ...]] = ("ranks",)

    def __call__(self, policy: LogProbs, reference: LogProbs | None, sizes: Tensor, ranks: Tensor) -> ListLoss:
        """Loss of each group, (G,) nats, and rewards of all completions, (B,)."""
        rewards = self.beta * log_ratio(policy, reference)
        rows = rows_of(sizes, rewards)
        rank = rows.spread(check_column("ranks", ranks, len(policy)).to(rewards))
        reward = rows.spread(rewards)
        both = rows.mask.unsqueeze(2) & rows.mask.unsqueeze(1)
        above = (rank.unsqueeze(2) < rank.unsqueeze(1)) & both
        contrast = softplus(reward.unsqueeze(1) - reward.unsqueeze(2))
        loss = torch.where(above, contrast, 0.0).sum(dim=(1, 2))
        if self.reduction == "mean":
            loss = loss / above.sum(dim=(1, 2)).clamp(min=1)
        return ListLoss(loss, rewards.detach())
