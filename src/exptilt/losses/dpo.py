"""Direct Preference Optimization, its conservative form by label smoothing, and the unbiased form for noisy labels."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from torch.nn.functional import logsigmoid, softplus

from exptilt.kinds import PAIR
from exptilt.losses.base import Loss, log_ratios
from exptilt.settings.declaration import config
from exptilt.settings.ranges import Positive, Range
from exptilt.types import Pair, PairLoss


@config
class DPO(Loss):
    """Direct Preference Optimization (Rafailov et al., 2023); with label smoothing, conservative DPO.

    With r = beta * (log pi(y|x) - log pi_ref(y|x)) summed over the completion's tokens and z = r_chosen - r_rejected,

        loss = -(1 - eps) * log sigmoid(z) - eps * log sigmoid(-z)

    Equals log 2 where policy and reference agree. With eps = 0 it is minimised only in the limit z -> infinity; with
    eps > 0 (cDPO) at z = log((1 - eps) / eps).

    Use when: pairs have a reference and no better reason speaks for another loss; eps > 0 for labels known to be noisy.
    Known failure: both rewards may fall while the margin grows, as the loss sees only their difference; labels that
    never contradict each other leave it without a finite optimum.
    Source: https://arxiv.org/abs/2305.18290, eq. 7; label smoothing is the authors' cDPO note (Mitchell, 2023). No
    deviation. The equation was checked against the paper's text.

    Example:
        >>> from exptilt.types import LogProbs, Pair
        >>> import torch
        >>> def side(total): return LogProbs.from_sums(torch.tensor([total]), torch.tensor([5]))
        >>> out = DPO(beta=0.1)(Pair(side(-8.0), side(-14.0)), Pair(side(-10.0), side(-12.0)))
        >>> round(out.loss.item(), 6), round(out.chosen_reward.item(), 6), round(out.rejected_reward.item(), 6)
        (0.513015, 0.2, -0.2)
    """

    name: Literal["dpo"] = "dpo"
    beta: Positive = 0.1
    """Strength of the pull toward the reference, > 0; larger stays closer."""
    label_smoothing: Annotated[float, Range(ge=0, lt=0.5)] = 0.0
    """Assumed probability that a label is flipped (cDPO), in [0, 0.5)."""

    kind: ClassVar = PAIR

    def __call__(self, policy: Pair, reference: Pair | None) -> PairLoss:
        """Loss and implicit rewards of each pair, (B,) nats."""
        chosen, rejected = log_ratios(policy, reference)
        margin, eps = self.beta * (chosen - rejected), self.label_smoothing
        loss = -(1 - eps) * logsigmoid(margin) - eps * logsigmoid(-margin)
        return PairLoss(loss, self.beta * chosen.detach(), self.beta * rejected.detach())


@config
class RobustDPO(Loss):
    """Robust DPO (Chowdhury et al., 2024): unbiased for the clean DPO loss when a share eps of labels is flipped.

    With z the DPO margin,

        loss = (-(1 - eps) * log sigmoid(z) + eps * log sigmoid(-z)) / (1 - 2 * eps)

    so that (1 - eps) * loss(z) + eps * loss(-z) is the DPO loss. Equals log 2 where policy and reference agree.

    Use when: the share of flipped labels is known.
    Known failure: not bounded below (slope -eps / (1 - 2 * eps) for large z), so a pair can be pushed apart forever.
    Source: https://arxiv.org/abs/2403.00409, as TRL's `robust`. No deviation. The formula was checked against TRL's
    code, the equation number is unchecked.

    Example:
        >>> from exptilt.types import LogProbs, Pair
        >>> import torch
        >>> def side(total): return LogProbs.from_sums(torch.tensor([total]), torch.tensor([5]))
        >>> out = RobustDPO(label_smoothing=0.1)(Pair(side(-8.0), side(-14.0)), Pair(side(-10.0), side(-12.0)))
        >>> round(out.loss.item(), 6)  # (0.9 * 0.513015 - 0.1 * 0.913015) / 0.8
        0.463015
    """

    name: Literal["robust_dpo"] = "robust_dpo"
    beta: Positive = 0.1
    """Strength of the pull toward the reference, > 0."""
    label_smoothing: Annotated[float, Range(ge=0, lt=0.5)] = 0.1
    """Probability that a label is flipped, in [0, 0.5)."""

    kind: ClassVar = PAIR

    def __call__(self, policy: Pair, reference: Pair | None) -> PairLoss:
        """Loss and implicit rewards of each pair, (B,) nats."""
        chosen, rejected = log_ratios(policy, reference)
        margin, eps = self.beta * (chosen - rejected), self.label_smoothing
        loss = ((1 - eps) * softplus(-margin) - eps * softplus(margin)) / (1 - 2 * eps)
        return PairLoss(loss, self.beta * chosen.detach(), self.beta * rejected.detach())
