"""Kahneman-Tversky optimization."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from exptilt.kinds import UNPAIRED
from exptilt.losses.base import Loss, check_column, log_ratio, row_weights, weighted_mean
from exptilt.settings.declaration import config
from exptilt.settings.ranges import NonNegative, Positive
from exptilt.types import CompletionLoss, LogProbs


@config
class KTO(Loss):
    """Kahneman-Tversky Optimization (Ethayarajh et al., 2024): good and bad completions against a reference point.

    With l the log-ratio log pi/pi_ref of a completion and z0 = max(0, mean of the log-ratios of mismatched
    completions), which estimates KL(pi || pi_ref) and is not differentiated,

        loss = desirable_weight * (1 - sigmoid(beta * (l - z0)))      for a desirable completion
               undesirable_weight * (1 - sigmoid(beta * (z0 - l)))    for an undesirable one

    The objective is the mean over all rows. A mismatched completion belongs to another row's prompt. Equals half the
    weight where policy and reference agree.

    Use when: there are thumbs up and down but no pairs. With unequal numbers keep desirable_weight * n_desirable /
    (undesirable_weight * n_undesirable) between 1 and 4/3.
    Known failure: saturates, so rows that are badly wrong are given up; z0 is noisy for small batches.
    Source: https://arxiv.org/abs/2402.01306, eq. 7 and the authors' code. Deviations of other codes, not
    reproduced: z0 per device's micro-batch (here: over the global batch), exact zeros left out of its mean (HALOs),
    matched completions with gradients in place of mismatched ones (the old `kto_pair`), no reference point at all
    (`apo_zero_unpaired`). The formula was checked against the authors' code, the equation number is unchecked.

    Example:
        >>> def logps(*totals): return LogProbs.from_sums(torch.tensor(totals), torch.tensor([5] * len(totals)))
        >>> out = KTO(beta=0.1)(logps(-8.0, -14.0), logps(-10.0, -12.0), torch.tensor([True, False]),
        ...                     mismatched=logps(-20.0, -21.0), mismatched_reference=logps(-21.0, -22.0))
        >>> [round(value, 6) for value in out.loss.tolist()]  # z0 1: sigmoid(-0.1), sigmoid(-0.3)
        [0.475021, 0.425557]
    """

    name: Literal["kto"] = "kto"
    beta: Positive = 0.1
    """Strength of the pull toward the reference, > 0."""
    desirable_weight: NonNegative = 1.0
    """Weight of desirable rows, >= 0."""
    undesirable_weight: NonNegative = 1.0
    """Weight of undesirable rows, >= 0."""

    kind: ClassVar = UNPAIRED
    inputs: ClassVar[tuple[str, ...]] = ("mismatched", "mismatched_reference")
    couples_batch: ClassVar[bool] = True

    @staticmethod
    def reference_point(
        mismatched: LogProbs | None, mismatched_reference: LogProbs | None, weights: Tensor | None = None
    ) -> Tensor:
        """z0, nats: the mean log-ratio of the batch's mismatched completions, at least 0, without gradient.

        A mismatched completion counts as much as the row under whose prompt it stands.
        """
        if mismatched is None or len(mismatched) == 0:
            raise ValueError(
                "mismatched is missing; KTO needs completions under other rows' prompts for its reference point"
            )
        ratios = log_ratio(mismatched, mismatched_reference, "mismatched").detach()
        return weighted_mean(ratios, row_weights(weights, ratios)).clamp(min=0)

    def __call__(
        self,
        policy: LogProbs,
        reference: LogProbs | None,
        desirable: Tensor,
        mismatched: LogProbs | None = None,
        mismatched_reference: LogProbs | None = None,
        weights: Tensor | None = None,
    ) -> CompletionLoss:
        """Loss and implicit reward beta * l of each completion, (B,)."""
        ratio = log_ratio(policy, reference)
        good = check_column("desirable", desirable, len(policy)).to(ratio.device).bool()
        point = self.reference_point(mismatched, mismatched_reference, weights)
        # 1 - sigmoid(x) as sigmoid(-x) keeps its digits for large x.
        value = torch.where(good, point - ratio, ratio - point)
        loss = (self.beta * value).sigmoid()
        weighted = torch.where(good, self.desirable_weight * loss, self.undesirable_weight * loss)
        return CompletionLoss(weighted, self.beta * ratio.detach())
