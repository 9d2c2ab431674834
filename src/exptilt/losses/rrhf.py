"""RRHF and PRO: rankings by mean log-probability, without a reference, with imitation of the best."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import relu

from exptilt.kinds import LIST
from exptilt.losses.base import Loss, check_column
from exptilt.losses.lists import RaggedRows, rows_of
from exptilt.settings.declaration import config
from exptilt.settings.ranges import NonNegative
from exptilt.types import ListLoss, LogProbs


@config
class RRHF(Loss):
    """RRHF (Yuan et al., 2023): a hinge without margin on every wrongly ordered pair, plus NLL on the best completion.

    With p the mean log-probability per token,

        loss = rank_weight * sum_{score_i < score_j} max(0, p_i - p_j) - p_best

    The first of equally best completions is the one imitated.

    Use when: imitation of the best is wanted with a mild ranking pressure.
    Known failure: no margin; a list in the right order contributes nothing but imitation.
    Source: https://arxiv.org/abs/2304.05302 and the authors' code, whose NLL also averages over padding (not
    reproduced). The formula was checked against the authors' code, the equation number is unchecked.

    Example:
        >>> logps = LogProbs.from_sums(torch.tensor([-4.0, -2.0]), torch.tensor([2, 2]))
        >>> RRHF()(logps, None, torch.tensor([2]), torch.tensor([1.0, 0.0])).loss.item()  # max(0, -1 + 2) + 2
        3.0
    """

    name: Literal["rrhf"] = "rrhf"
    rank_weight: NonNegative = 1.0
    """Weight of the ranking term, >= 0."""

    kind: ClassVar = LIST
    needs_reference: ClassVar[bool] = False
    needs_lengths: ClassVar[bool] = True
    inputs: ClassVar[tuple[str, ...]] = ("scores",)

    def __call__(self, policy: LogProbs, reference: LogProbs | None, sizes: Tensor, scores: Tensor) -> ListLoss:
        """Loss of each group, (G,) nats; rewards are the mean log-probabilities."""
        means = policy.mean()
        rows = rows_of(sizes, means)
        score, mean = _scored(scores, means, rows), rows.spread(means)
        mask = rows.mask
        worse = (score.unsqueeze(2) < score.unsqueeze(1)) & mask.unsqueeze(2)
        gap = relu(mean.unsqueeze(2) - mean.unsqueeze(1))
        ranking = torch.where(worse, gap, 0.0).sum(dim=(1, 2))
        best = mean.gather(1, score.argmax(dim=1, keepdim=True)).squeeze(1)
        return ListLoss(self.rank_weight * ranking - best, means.detach())


@config
class PRO(Loss):
    """Preference Ranking Optimization (Song et al., 2024): one contrast per rank, with temperatures from score gaps.

    With p the mean log-probability per token, completions sorted by score r (best first), T_kj = r_k - r_j and T_k =
    max_j T_kj,

        loss = sum_{k<K} (log(exp(p_k * T_k) + sum_{j>k} exp(p_j * T_kj)) - p_k * T_k)
               - sft_weight * (K - 1)^2 * log pi(y_1)

    Use when: reproducing the paper, or imitation with graded contrasts is wanted.
    Known failure: tied scores have temperature 0, that is no contrast; the imitation term is a sum and dominates long
    lists.
    Source: https://arxiv.org/abs/2306.17492 and the authors' code. Deviation: its 1e-10 inside the logarithm is
    left out, as the logarithm of the sum is taken stably. The formula was checked against the authors' code, the
    equation number is unchecked.

    Example:
        >>> logps = LogProbs.from_sums(torch.tensor([-4.0, -2.0]), torch.tensor([2, 2]))
        >>> out = PRO()(logps, None, torch.tensor([2]), torch.tensor([1.0, 0.0]))
        >>> round(out.loss.item(), 6)  # log(e^-2 + e^-1) + 2 + 0.05 * 4
        1.513262
    """

    name: Literal["pro"] = "pro"
    sft_weight: NonNegative = 0.05
    """Weight of the NLL (a sum) of the best completion, times (K - 1)^2; >= 0."""

    kind: ClassVar = LIST
    needs_reference: ClassVar[bool] = False
    needs_lengths: ClassVar[bool] = True
    inputs: ClassVar[tuple[str, ...]] = ("scores",)

    def __call__(self, policy: LogProbs, reference: LogProbs | None, sizes: Tensor, scores: Tensor) -> ListLoss:
        """Loss of each group, (G,) nats; rewards are the mean log-probabilities."""
        means = policy.mean()
        rows = rows_of(sizes, means)
        score = _scored(scores, means, rows)
        order = score.argsort(dim=1, descending=True, stable=True)
        mask = rows.mask.gather(1, order)
        score, mean = score.gather(1, order).masked_fill(~mask, 0.0), rows.spread(means).gather(1, order)
        later = torch.ones_like(mask).unsqueeze(1).expand(-1, mask.shape[1], -1).triu(diagonal=1) & mask.unsqueeze(1)
        heat = score.unsqueeze(2) - score.unsqueeze(1)
        own_heat = torch.where(later, heat, 0.0).amax(dim=2)
        rivals = torch.where(later, mean.unsqueeze(1) * heat, -torch.inf)
        own = mean * own_heat
        race = torch.cat([own.unsqueeze(2), rivals], dim=2).logsumexp(dim=2)
        contrast = RaggedRows.sum((race - own).masked_fill(~mask, 0.0))
        best = rows.spread(policy.sum()).gather(1, order[:, :1]).squeeze(1)
        imitation = self.sft_weight * (rows.sizes.to(best) - 1).square() * best
        return ListLoss(contrast - imitation, means.detach())


def _scored(scores: Tensor, like: Tensor, rows: RaggedRows) -> Tensor:
    """(G, K) scores, -inf where there is no completion."""
    return rows.spread(check_column("scores", scores, len(like)).to(like), fill=-torch.inf)
