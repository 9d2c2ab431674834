"""Alignment via optimal transport."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from exptilt.kinds import PAIR
from exptilt.losses.base import Loss, check_pair, log_ratios
from exptilt.settings.declaration import config
from exptilt.settings.ranges import Positive
from exptilt.types import Pair, PairLoss


@config
class AOT(Loss):
    """Alignment via Optimal Transport (Melnyk et al., 2024): sorted values are compared, not values of the same pair.

    With sort over the whole batch,

        paired:    loss = -log sigmoid(beta * (sort(log pi_w - log pi_l) - sort(log ref_w - log ref_l)))
        unpaired:  loss = -log sigmoid(beta * (sort(l_w) - sort(l_l))),   l = log pi/pi_ref

    A sorted value's loss is reported at the pair its first term came from. The mean does not depend on the order of the
    batch. A batch of one pair is DPO.

    Use when: the whole distribution of chosen rewards should dominate that of rejected ones; unpaired needs no
    matching.
    Known failure: the comparison depends on the batch; small batches are noisy.
    Source: https://arxiv.org/abs/2406.05882, as in TRL (`aot`, `aot_unpaired`; TRL 0.24 called the latter `aot_pair`),
    where the sort sees one device's micro-batch. Deviation: here it sees the global batch.

    Example:
        >>> from exptilt.types import LogProbs, Pair
        >>> def side(*totals): return LogProbs.from_sums(torch.tensor(totals), torch.tensor([5] * len(totals)))
        >>> policy = Pair(side(-9.0, -10.0), side(-14.0, -11.0))
        >>> reference = Pair(side(-10.0, -10.0), side(-11.0, -12.0))
        >>> out = AOT(beta=0.1)(policy, reference)  # differences 5, 1 against 1, 2: sorted 1 - 1 and 5 - 2
        >>> [round(value, 6) for value in out.loss.tolist()]
        [0.554355, 0.693147]
    """

    name: Literal["aot"] = "aot"
    beta: Positive = 0.01
    """Scale of the log-ratios, > 0."""
    paired: bool = True
    """Compare differences inside pairs (True) or the two sides apart (False)."""

    kind: ClassVar = PAIR
    couples_batch: ClassVar[bool] = True

    def __call__(self, policy: Pair, reference: Pair | None) -> PairLoss:
        """Loss at the pair of the first sorted term, and implicit rewards of each pair, (B,) nats."""
        chosen, rejected = log_ratios(policy, reference)
        if self.paired:
            assert reference is not None  # noqa: S101  (log_ratios refused it)
            check_pair(policy, reference)
            first = policy.chosen.sum() - policy.rejected.sum()
            second = reference.chosen.sum() - reference.rejected.sum()
        else:
            first, second = chosen, rejected
        loss = -logsigmoid(self.beta * _minus_same_rank(first, second))
        return PairLoss(loss, self.beta * chosen.detach(), self.beta * rejected.detach())


def _minus_same_rank(first: Tensor, second: Tensor) -> Tensor:
    """(B,) each value of `first` minus the value of `second` that has the same rank."""
    rank = torch.argsort(torch.argsort(first.detach(), stable=True), stable=True)
    return first - second.sort().values[rank]
