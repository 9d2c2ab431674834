"""Distributionally robust DPO."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from exptilt.kinds import PAIR
from exptilt.losses.base import Loss, log_ratios, row_weights
from exptilt.settings.declaration import config
from exptilt.settings.ranges import Positive
from exptilt.types import Pair, PairLoss


@config
class DrDPO(Loss):
    """Dr. DPO (Wu et al., 2024): DPO under the kindest reweighting of the pairs of a batch.

    With l_i = -log sigmoid(z_i) the DPO loss of pair i,

        loss = -temperature * log(mean_i exp(-l_i / temperature))

    one number for the batch, at most the mean of l_i; rows count by their weights. Its gradient is that of the l_i, each weighted by
    softmax(-l_i / temperature): pairs that contradict the policy count less. As the temperature grows it is DPO.

    Use when: some labels are flipped and nobody knows which.
    Known failure: a small temperature learns what is learnt already; hard, rightly labelled pairs count less, too.
    Source: https://arxiv.org/abs/2407.07880; formula from its description, the equation number unchecked. beta' there is
    temperature here. The mean is over the global batch.

    Example:
        >>> from exptilt.types import LogProbs
        >>> def side(*totals): return LogProbs.from_sums(torch.tensor(totals), torch.tensor([5, 5]))
        >>> policy, reference = Pair(side(-8.0, -9.0), side(-14.0, -9.0)), Pair(side(-10.0, -9.0), side(-12.0, -9.0))
        >>> out = DrDPO(beta=0.1, temperature=1.0)(policy, reference)  # -log((sigmoid(0.4) + 1/2) / 2)
        >>> [round(value, 6) for value in out.loss.tolist()]
        [0.599031, 0.599031]
    """

    name: Literal["dr_dpo"] = "dr_dpo"
    beta: Positive = 0.1
    """Strength of the pull toward the reference, > 0."""
    temperature: Positive = 1.0
    """How evenly the pairs count, > 0; large is DPO."""

    kind: ClassVar = PAIR
    couples_batch: ClassVar[bool] = True

    def __call__(self, policy: Pair, reference: Pair | None, weights: Tensor | None = None) -> PairLoss:
        """The batch's loss for every pair, and implicit rewards, (B,) nats."""
        chosen, rejected = (self.beta * side for side in log_ratios(policy, reference))
        scaled = -softplus(rejected - chosen) / self.temperature
        counts = row_weights(weights, scaled)
        shares = torch.where(counts > 0, counts / counts.sum(), 1.0).log()  # of a row that does not count: unused
        kept = torch.where(counts > 0, scaled + shares, -torch.inf)
        whole = -self.temperature * torch.logsumexp(kept, dim=0)
        return PairLoss(whole.expand(len(scaled)), chosen.detach(), rejected.detach())
