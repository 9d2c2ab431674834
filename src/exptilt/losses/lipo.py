"""LiPO-lambda."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from exptilt.kinds import LIST
from exptilt.losses.base import Loss, check_column, log_ratio
from exptilt.losses.lists import rows_of
from exptilt.losses.rounding import levels, rounding_of
from exptilt.settings.declaration import config
from exptilt.settings.ranges import Positive
from exptilt.types import ListLoss, LogProbs


@config
class LiPO(Loss):
    """LiPO-lambda (Liu et al., 2024): every pair of a list, weighted by what swapping it costs a ranking metric.

    With s = beta * log pi/pi_ref, psi the scores, and D = ln(1 + rank), the natural logarithm, where rank is the place of
    a completion by s, best 1,

        loss = (1 / N) sum_{psi_i > psi_j} |2^psi_i - 2^psi_j| * |1 / D_i - 1 / D_j| * -log sigmoid(s_i - s_j)

    N is 1, or with `ndcg` the DCG of the best order, sum_k (2^psi_k - 1) / D_k with the scores from the highest down; the
    logarithm's base then cancels. The weights are not differentiated. Equal s, as at the reference, are ranked by psi;
    s within rounding are equal. For two completions it is DPO times a constant.

    Use when: lists have graded scores (about 0 to 5) and the top of the list matters most.
    Known failure: weights grow as 2^score, so scores on a wide scale drown everything but the best.
    Source: https://arxiv.org/abs/2402.01878, eq. 8 and beta 0.05, checked against the paper's text: a sum over pairs,
    without normalisation by the ideal metric, the base of the logarithm not named. Codes in circulation differ in such
    constants.

    Example:
        >>> logps = LogProbs.from_sums(torch.tensor([-3.0, -4.0]), torch.tensor([2, 2]))
        >>> out = LiPO()(logps, logps, torch.tensor([2]), torch.tensor([1.0, 0.0]))
        >>> round(out.loss.item(), 6)  # (2 - 1) * (1 / log 2 - 1 / log 3) * log 2
        0.36907
    """

    name: Literal["lipo"] = "lipo"
    beta: Positive = 0.05
    """Strength of the pull toward the reference, > 0."""
    ndcg: bool = False
    """Divide by the DCG of the best order, so that a group's scale of scores does not matter; needs scores >= 0."""

    kind: ClassVar = LIST
    inputs: ClassVar[tuple[str, ...]] = ("scores",)

    def __call__(self, policy: LogProbs, reference: LogProbs | None, sizes: Tensor, scores: Tensor) -> ListLoss:
        """Loss of each group, (G,) nats, and rewards of all completions."""
        rewards = self.beta * log_ratio(policy, reference)
        rows = rows_of(sizes, rewards)
        score = rows.spread(check_column("scores", scores, len(policy)).to(rewards), fill=-torch.inf)
        reward = rows.spread(rewards)
        with torch.no_grad():
            rounding = rows.spread(self.beta * rounding_of(policy, reference).to(rewards)).amax(dim=1, keepdim=True)
            ordering = levels(torch.where(rows.mask, reward, -torch.inf), rounding)
            discount = 1 / torch.log1p(_places(ordering, score).to(reward))
            gain = torch.exp2(score)
            weight = (gain.unsqueeze(2) - gain.unsqueeze(1)) * (discount.unsqueeze(2) - discount.unsqueeze(1)).abs()
            better = (score.unsqueeze(2) > score.unsqueeze(1)) & rows.mask.unsqueeze(1)
            weight = torch.where(better, weight, 0.0)
            if self.ndcg:
                weight = weight / _ideal_dcg(score, rows.mask)[:, None, None]
        loss = (weight * softplus(reward.unsqueeze(1) - reward.unsqueeze(2))).sum(dim=(1, 2))
        return ListLoss(loss, rewards.detach())


def _ideal_dcg(score: Tensor, mask: Tensor) -> Tensor:
    """(G,) DCG of each group in the order of its scores; 1 where all scores are 0, as then nothing is weighed."""
    if bool((score[mask] < 0).any()):
        raise ValueError("scores must be >= 0 for lipo with ndcg, as a gain 2^score - 1 must not be negative")
    best = score.sort(dim=1, descending=True).values
    places = torch.arange(1, score.shape[1] + 1).to(score)
    dcg = (torch.where(best > -torch.inf, torch.exp2(best) - 1, 0.0) / torch.log1p(places)).sum(dim=1)
    return torch.where(dcg > 0, dcg, 1.0)


def _places(ordering: Tensor, tie_break: Tensor) -> Tensor:
    """(G, K) place of each entry of a row by `ordering`, largest 1; equal ones by `tie_break`."""
    by_tie = tie_break.argsort(dim=1, descending=True, stable=True)
    by_both = by_tie.gather(1, ordering.gather(1, by_tie).argsort(dim=1, descending=True, stable=True))
    return by_both.argsort(dim=1) + 1
