"""Length-desensitised DPO."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from exptilt.kinds import PAIR
from exptilt.losses.base import Loss, check_pair
from exptilt.settings.declaration import config
from exptilt.settings.ranges import Positive, Range
from exptilt.types import LogProbs, Pair, PairLoss, at_least_float32


@config
class LDDPO(Loss):
    """Length-desensitised DPO (Liu et al., 2024): tokens beyond the shorter completion's length count less.

    With m = min(|y_chosen|, |y_rejected|), every log-probability log p(y|x) in the DPO loss is replaced by

        sum_{t <= m} log p(y_t) + alpha * sum_{t > m} log p(y_t)

    alpha = 1, and equal lengths, are DPO. Equals log 2 where policy and reference agree.

    Use when: DPO makes the policy longer and a length penalty is too blunt.
    Known failure: with alpha = 0 the end of the longer completion, its end token included, is not trained at all.
    Source: https://arxiv.org/abs/2409.06411, for policy and reference alike, as TRL from 0.29. Deviation, off by
    default: `discount_reference: false` discounts the policy only (TRL up to 0.28, LLaMA-Factory); step 0 is then
    not log 2. The formula was checked against TRL's code, the equation number is unchecked.

    Example:
        >>> policy = LogProbs(values=torch.tensor([-1.0, -1.0, -4.0]), lengths=torch.tensor([3]))
        >>> other = LogProbs(values=torch.tensor([-1.0, -1.0]), lengths=torch.tensor([2]))
        >>> reference = LogProbs(values=torch.tensor([-2.0, -2.0, -2.0]), lengths=torch.tensor([3]))
        >>> out = LDDPO(beta=0.1, alpha=0.5)(Pair(policy, other), Pair(reference, other))
        >>> round(out.chosen_reward.item(), 6)  # 0.1 * (1 + 1 + 0.5 * -2)
        0.1
    """

    name: Literal["ld_dpo"] = "ld_dpo"
    beta: Positive = 0.1
    """Strength of the pull toward the reference, > 0."""
    alpha: Annotated[float, Range(ge=0, le=1)] = 0.5
    """Weight of the tokens beyond the shorter length, in [0, 1]."""
    discount_reference: bool = True
    """Discount the reference as well as the policy."""

    kind: ClassVar = PAIR
    needs_lengths: ClassVar[bool] = True
    needs_tokens: ClassVar[bool] = True

    def _log_ratio(self, policy: LogProbs, reference: LogProbs, shorter: Tensor) -> Tensor:
        ours, theirs = at_least_float32(policy.tokens()), at_least_float32(reference.tokens())
        beyond = policy.positions() >= torch.repeat_interleave(shorter, policy.lengths)
        weight = 1 - (1 - self.alpha) * beyond.to(ours)
        if self.discount_reference:
            return policy.sum_of(weight * (ours - theirs))
        return policy.sum_of(weight * ours - theirs)

    def __call__(self, policy: Pair, reference: Pair | None) -> PairLoss:
        """Loss and implicit rewards of each pair, (B,) nats."""
        if reference is None:
            raise ValueError("reference log-probabilities are missing; ld_dpo compares the policy with them")
        check_pair(policy, reference)
        shorter = torch.minimum(policy.chosen.lengths, policy.rejected.lengths)
        chosen = self.beta * self._log_ratio(policy.chosen, reference.chosen, shorter)
        rejected = self.beta * self._log_ratio(policy.rejected, reference.rejected, shorter)
        return PairLoss(-logsigmoid(chosen - rejected), chosen.detach(), rejected.detach())
