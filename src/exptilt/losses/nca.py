"""Noise-contrastive alignment: NCA for pairs and lists, InfoNCA for lists."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from exptilt.kinds import LIST, PAIR
from exptilt.losses.base import Loss, check_column, log_ratio, log_ratios
from exptilt.losses.lists import RaggedRows, log_softmax_rows, rows_of
from exptilt.settings.declaration import config
from exptilt.settings.ranges import Positive
from exptilt.types import ListLoss, LogProbs, Pair, PairLoss


@config
class NCA(Loss):
    """Noise-contrastive alignment on pairs (Chen et al., 2024).

    With r = beta * log pi/pi_ref of each completion,

        loss = -log sigmoid(r_chosen) - log sigmoid(-r_chosen) / 2 - log sigmoid(-r_rejected) / 2

    It sees the rewards themselves, not their difference: the chosen one is drawn to r = log 2 and the rejected one
    down. Equals 2 log 2 where policy and reference agree.

    Use when: the chosen likelihood must not fall.
    Known failure: the chosen reward is bounded by design, so margins stay small.
    Source: https://arxiv.org/abs/2402.05369 for K = 2 with the preferred one weighted 1. No deviation. The formula
    was checked against the authors' code, the equation number is unchecked.

    Example:
        >>> from exptilt.types import LogProbs, Pair
        >>> import torch
        >>> def side(total): return LogProbs.from_sums(torch.tensor([total]), torch.tensor([5]))
        >>> out = NCA(beta=0.1)(Pair(side(-8.0), side(-14.0)), Pair(side(-10.0), side(-12.0)))
        >>> round(out.loss.item(), 6)
        1.296278
    """

    name: Literal["nca"] = "nca"
    beta: Positive = 0.01
    """Strength of the pull toward the reference, > 0."""

    kind: ClassVar = PAIR

    def __call__(self, policy: Pair, reference: Pair | None) -> PairLoss:
        """Loss and implicit rewards of each pair, (B,) nats."""
        chosen, rejected = (self.beta * side for side in log_ratios(policy, reference))
        loss = softplus(-chosen) + softplus(chosen) / 2 + softplus(rejected) / 2
        return PairLoss(loss, chosen.detach(), rejected.detach())


@config
class NCAList(Loss):
    """Noise-contrastive alignment on scored lists (Chen et al., 2024).

    With r_k = beta * log pi/pi_ref of the K completions of a group and w = softmax(scores / score_temperature),

        loss = -sum_k w_k * log sigmoid(r_k) - sum_k log sigmoid(-r_k) / K

    Equals 2 log 2 where policy and reference agree.

    Use when: completions have scores and their likelihoods must be held in absolute terms.
    Known failure: with a small score_temperature only the best completion is told apart.
    Source: https://arxiv.org/abs/2402.05369 and the authors' code, whose alpha is one over the paper's. Not
    included: the 0.01 the authors' script adds to the best score; add it to the data. The formula was checked
    against the authors' code, the equation number is unchecked.

    Example:
        >>> import torch
        >>> logps = LogProbs.from_sums(torch.tensor([-3.0, -3.0, -4.0]), torch.tensor([2, 2, 2]))
        >>> scores, sizes = torch.tensor([1.0, 0.0, 0.5]), torch.tensor([3])
        >>> round(NCAList()(logps, logps, sizes, scores).loss.item(), 6)
        1.386294
    """

    name: Literal["nca_list"] = "nca_list"
    beta: Positive = 0.01
    """Strength of the pull toward the reference, > 0."""
    score_temperature: Positive = 1e-4
    """What scores are divided by before the softmax, > 0; the authors' 1e-4 makes the target one-hot."""

    kind: ClassVar = LIST
    inputs: ClassVar[tuple[str, ...]] = ("scores",)

    def __call__(self, policy: LogProbs, reference: LogProbs | None, sizes: Tensor, scores: Tensor) -> ListLoss:
        """Loss of each group, (G,) nats, and rewards of all completions."""
        rewards = self.beta * log_ratio(policy, reference)
        rows = rows_of(sizes, rewards)
        weights = _softmax_of_scores(scores, rows, self.score_temperature, rewards)
        pulled = rows.sum(weights * rows.spread(-logsigmoid(rewards)))
        pushed = rows.sum(rows.spread(-logsigmoid(-rewards))) / rows.sizes
        return ListLoss(pulled + pushed, rewards.detach())


@config
class InfoNCA(Loss):
    """InfoNCA on scored lists (Chen et al., 2024): softmax cross-entropy between scores and implicit rewards.

    With r_k = beta * log pi/pi_ref of the K completions of a group and w = softmax(scores / score_temperature),

        loss = -sum_k w_k * log softmax(r)_k

    For K = 2 and a one-hot w it is DPO. Equals log K where policy and reference agree.

    Use when: completions have scores and only their relative likelihoods matter.
    Known failure: as DPO's; the likelihood of the best completion may fall.
    Source: https://arxiv.org/abs/2402.05369 and the authors' code. Not included: the 0.01 the authors' script adds
    to the best score; add it to the data. The formula was checked against the authors' code, the equation number is
    unchecked.

    Example:
        >>> import torch
        >>> logps = LogProbs.from_sums(torch.tensor([-3.0, -3.0, -4.0]), torch.tensor([2, 2, 2]))
        >>> scores, sizes = torch.tensor([1.0, 0.0, 0.5]), torch.tensor([3])
        >>> round(InfoNCA()(logps, logps, sizes, scores).loss.item(), 6)
        1.098612
    """

    name: Literal["info_nca"] = "info_nca"
    beta: Positive = 0.01
    """Strength of the pull toward the reference, > 0."""
    score_temperature: Positive = 1e-4
    """What scores are divided by before the softmax, > 0; the authors' 1e-4 makes the target one-hot."""

    kind: ClassVar = LIST
    inputs: ClassVar[tuple[str, ...]] = ("scores",)

    def __call__(self, policy: LogProbs, reference: LogProbs | None, sizes: Tensor, scores: Tensor) -> ListLoss:
        """Loss of each group, (G,) nats, and rewards of all completions."""
        rewards = self.beta * log_ratio(policy, reference)
        rows = rows_of(sizes, rewards)
        weights = _softmax_of_scores(scores, rows, self.score_temperature, rewards)
        return ListLoss(-rows.sum(weights * log_softmax_rows(rewards, rows)), rewards.detach())


def _softmax_of_scores(scores: Tensor, rows: RaggedRows, temperature: float, like: Tensor) -> Tensor:
    """(G, K) softmax of the scores inside each group, 0 where there is no completion."""
    column = check_column("scores", scores, len(like)).to(like.dtype)
    return log_softmax_rows(column / temperature, rows).exp().masked_fill(~rows.mask, 0.0)
