"""Efficient Exact Optimization, for pairs and for lists."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from exptilt.kinds import LIST, PAIR
from exptilt.losses.base import Loss, check_column, log_ratio, log_ratios
from exptilt.losses.lists import log_softmax_rows, rows_of
from exptilt.settings.declaration import config
from exptilt.settings.ranges import Positive, Range
from exptilt.types import ListLoss, LogProbs, Pair, PairLoss


@config
class EXO(Loss):
    """Efficient Exact Optimization on preferences (EXO-pref, Ji et al., 2024): the reverse KL divergence to the labels.

    With q = sigmoid(z) the probability the policy's margin gives to the chosen completion,

        loss = q * (log q - log(1 - eps)) + (1 - q) * (log(1 - q) - log eps)

    It is zero, its minimum, at z = log((1 - eps) / eps), and its gradient vanishes at both ends.

    Use when: mode-seeking behaviour on the labels is wanted.
    Known failure: a pair the policy has badly wrong (z very negative) has almost no gradient.
    Source: https://arxiv.org/abs/2402.00856, eq. 16; eps 1e-3 as in TRL's `exo_pair`. Deviation of the authors'
    code, not reproduced: its target is (0, -10) without normalisation, which moves the minimum value to -log(1 +
    exp(-10)). The formula was checked against the authors' code, the equation number is unchecked.

    Example:
        >>> from exptilt.types import LogProbs, Pair
        >>> import torch
        >>> def side(total): return LogProbs.from_sums(torch.tensor([total]), torch.tensor([5]))
        >>> at_reference = Pair(side(-8.0), side(-14.0))
        >>> round(EXO(label_smoothing=0.1)(at_reference, at_reference).loss.item(), 6)  # -log 2 - log(0.9 * 0.1) / 2
        0.510826
    """

    name: Literal["exo"] = "exo"
    beta: Positive = 0.5
    """Scale of the log-ratios (the paper's beta_pi), > 0."""
    label_smoothing: Annotated[float, Range(gt=0, lt=0.5)] = 1e-3
    """Probability given to the rejected completion, in (0, 0.5); zero has no finite loss."""

    kind: ClassVar = PAIR

    def __call__(self, policy: Pair, reference: Pair | None) -> PairLoss:
        """Loss and implicit rewards of each pair, (B,) nats."""
        chosen, rejected = log_ratios(policy, reference)
        margin, eps = self.beta * (chosen - rejected), self.label_smoothing
        on_chosen = margin.sigmoid() * (logsigmoid(margin) - math.log1p(-eps))
        on_rejected = (-margin).sigmoid() * (logsigmoid(-margin) - math.log(eps))
        return PairLoss(on_chosen + on_rejected, self.beta * chosen.detach(), self.beta * rejected.detach())


@config
class EXOList(Loss):
    """Efficient Exact Optimization on scored lists (Ji et al., 2024).

    With l the log-ratios of the K completions of a group and both distributions over the group,

        loss = KL(softmax(beta * l) || softmax(scores / score_temperature))

    Zero exactly where the policy's tilt of the reference inside the group equals the scores'.

    Use when: every completion has a score on one scale, such as a reward model's.
    Known failure: reverse KL; completions the policy gives up on are not recovered.
    Source: https://arxiv.org/abs/2402.00856 and the authors' code (beta_pi = beta_r = 0.5). No deviation. The
    formula was checked against the authors' code, the equation number is unchecked.

    Example:
        >>> import torch
        >>> logps = LogProbs.from_sums(torch.tensor([-3.0, -3.0]), torch.tensor([2, 2]))
        >>> scores, sizes = torch.tensor([1.0, 1.0]), torch.tensor([2])
        >>> EXOList()(logps, logps, sizes, scores).loss.item()
        0.0
    """

    name: Literal["exo_list"] = "exo_list"
    beta: Positive = 0.5
    """Scale of the log-ratios (beta_pi), > 0."""
    score_temperature: Positive = 0.5
    """What scores are divided by (beta_r), > 0."""

    kind: ClassVar = LIST
    inputs: ClassVar[tuple[str, ...]] = ("scores",)

    def __call__(self, policy: LogProbs, reference: LogProbs | None, sizes: Tensor, scores: Tensor) -> ListLoss:
        """Loss of each group, (G,) nats, and rewards of all completions."""
        rewards = self.beta * log_ratio(policy, reference)
        rows = rows_of(sizes, rewards)
        ours = log_softmax_rows(rewards, rows)
        scores = check_column("scores", scores, len(policy)).to(rewards.dtype)
        target = log_softmax_rows(scores / self.score_temperature, rows)
        loss = rows.sum(torch.where(rows.mask, ours.exp() * (ours - target), 0.0))
        return ListLoss(loss, rewards.detach())
