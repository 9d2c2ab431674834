"""Supervised fine-tuning."""

from __future__ import annotations

from typing import ClassVar, Literal

from exptilt.kinds import COMPLETION
from exptilt.losses.base import Loss, Normalization
from exptilt.settings.declaration import config
from exptilt.types import CompletionLoss, LogProbs


@config
class SFT(Loss):
    """Supervised fine-tuning: negative log-likelihood of the completion.

    With NLL the negative log-probability of a completion and |y| the number of its counted tokens, the objective of a
    batch is

        token:     sum NLL / sum |y|        every token counts alike
        sequence:  mean of NLL / |y|        every completion counts alike
        sum:       mean of NLL              a completion counts by its length

    `token` is returned as NLL / |y| with weight |y|, so sum(weight * loss) / sum(weight) is exact however a batch is
    split.

    Use when: starting from a base model, or as the reference of a preference run.
    Known failure: mistaking the normalisations for one another; they differ by the spread of lengths.
    Source: token as in TRL and HALOs, sum as in the DPO authors' code (where a gradient clip of 10 is active for
    that reason). All three were checked against code; there is no equation to cite.

    Example:
        >>> import torch
        >>> logps = LogProbs.from_sums(torch.tensor([-2.0, -12.0]), torch.tensor([1, 3]))
        >>> out = SFT()(logps)
        >>> ((out.loss * out.weight).sum() / out.weight.sum()).item()  # 14 / 4
        3.5
        >>> SFT(normalization="sequence")(logps).loss.mean().item(), SFT(normalization="sum")(logps).loss.mean().item()
        (3.0, 7.0)
    """

    name: Literal["sft"] = "sft"
    normalization: Normalization = "token"
    """Tokens of the batch alike (token), completions alike by their mean (sequence), or by their sum (sum)."""

    kind: ClassVar = COMPLETION
    holds_likelihoods: ClassVar[bool] = True
    needs_reference: ClassVar[bool] = False
    needs_lengths: ClassVar[bool] = True

    def __call__(self, policy: LogProbs, reference: LogProbs | None = None) -> CompletionLoss:
        """Loss and weight of each completion, (B,); the reward is its log-probability."""
        total = policy.sum()
        if self.normalization == "sum":
            return CompletionLoss(-total, total.detach())
        weight = policy.lengths.to(total) if self.normalization == "token" else None
        return CompletionLoss(-policy.mean(), total.detach(), weight)
