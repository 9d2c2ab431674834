"""On-policy distillation."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from exptilt.kinds import ROLLOUT
from exptilt.losses.base import Loss
from exptilt.losses.kl_estimates import rao_blackwell_kl
from exptilt.settings.declaration import config
from exptilt.types import LogProbs, RolloutLoss, group_sums


@config
class Distill(Loss):
    """On-policy distillation (Agarwal et al., 2024): the exact reverse KL to a teacher at every step of the policy's own samples.

    The reference is the teacher. With all next tokens v,

        loss = mean_i sum_t KL(pi(. | x, y_<t) || teacher(. | x, y_<t)),    y drawn from pi

    The prefixes are held as they were drawn: the gradient is that of each step alone, without what a token does to later steps. It is
    zero where policy and teacher agree on every prefix that the policy reaches, and then the KL of whole sequences is zero, too.

    Use when: a better model with the same tokenizer exists, such as a large one, or the known optimum of a test-bed.
    Known failure: a small policy that cannot be the teacher stops at the step-wise optimum on its own prefixes.
    Source: https://arxiv.org/abs/2306.13649 with its parameters set to reverse KL and own samples alone; a sum over tokens where the
    paper takes means. Unchecked: the formula is from a description.

    Example:
        >>> samples = LogProbs(values=torch.tensor([-1.0, -2.0]), lengths=torch.tensor([1, 1]), kl=torch.tensor([0.25, 0.75]))
        >>> Distill()(samples, samples, torch.tensor([2])).loss.item()
        0.5
    """

    name: Literal["distill"] = "distill"

    kind: ClassVar = ROLLOUT
    needs_tokens: ClassVar[bool] = True
    byproducts: ClassVar[tuple[str, ...]] = ("kl",)

    def __call__(self, policy: LogProbs, reference: LogProbs | None, sizes: Tensor) -> RolloutLoss:
        """Loss of each group, (G,) nats."""
        divergence = rao_blackwell_kl(policy)
        counts = sizes.to(divergence)
        total = group_sums(divergence, sizes)
        return RolloutLoss(
            total / counts, torch.zeros_like(divergence).detach(), sizes, measured={"kl": (total.detach(), counts)}
        )
