"""DPO that accounts for lengths: R-DPO and length-normalised DPO."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch.nn.functional import logsigmoid

from exptilt.kinds import PAIR
from exptilt.losses.base import Loss, log_ratios, mean_log_ratios
from exptilt.settings.declaration import config
from exptilt.settings.ranges import NonNegative, Positive
from exptilt.types import Pair, PairLoss


@config
class RDPO(Loss):
    """R-DPO (Park et al., 2024): DPO for the reward r - alpha * length.

    With z the DPO margin and |y| the number of counted tokens,

        loss = -log sigmoid(z + alpha * (|y_chosen| - |y_rejected|))

    so a longer chosen completion needs less margin: length explains part of the preference. Equal lengths give DPO.

    Use when: annotators prefer longer completions and the policy grows longer than wanted.
    Known failure: alpha is in reward units per token; too large and lengths decide every pair.
    Source: https://arxiv.org/abs/2403.19159. The sign follows from the regularised reward. Default alpha from
    SamPO's script, as the paper's could not be checked. No other deviation. Unchecked: the formula is from a
    description.

    Example:
        >>> from exptilt.types import LogProbs, Pair
        >>> import torch
        >>> def side(total, n): return LogProbs.from_sums(torch.tensor([total]), torch.tensor([n]))
        >>> policy, reference = Pair(side(-8.0, 5), side(-14.0, 9)), Pair(side(-10.0, 5), side(-12.0, 9))
        >>> round(RDPO(beta=0.1, alpha=0.1)(policy, reference).loss.item(), 6)  # z 0.4, penalty -0.4
        0.693147
    """

    name: Literal["r_dpo"] = "r_dpo"
    beta: Positive = 0.1
    """Strength of the pull toward the reference, > 0."""
    alpha: NonNegative = 0.01
    """Price of a token in units of reward, >= 0."""

    kind: ClassVar = PAIR
    needs_lengths: ClassVar[bool] = True

    def __call__(self, policy: Pair, reference: Pair | None) -> PairLoss:
        """Loss and implicit rewards of each pair, (B,) nats."""
        chosen, rejected = (self.beta * side for side in log_ratios(policy, reference))
        longer = (policy.chosen.lengths - policy.rejected.lengths).to(chosen)
        loss = -logsigmoid(chosen - rejected + self.alpha * longer)
        return PairLoss(loss, chosen.detach(), rejected.detach())


@config
class LengthNormalizedDPO(Loss):
    """Length-normalised DPO (Tulu 3; also SimPO's appendix): DPO on log-ratios per token.

    With l the log-ratio log pi/pi_ref and |y| the number of counted tokens,

        loss = -log sigmoid(beta * (l_chosen / |y_chosen| - l_rejected / |y_rejected|))

    With equal lengths n it is DPO at beta / n. Equals log 2 where policy and reference agree.

    Use when: completions differ much in length; note the scale of beta.
    Known failure: a long completion may drift far in total while its mean hardly moves.
    Source: https://arxiv.org/abs/2411.15124 (TRL: `sigmoid_norm`). The default beta 5 is Tulu 3's as reported
    elsewhere; it could not be checked against the paper. The formula was checked against TRL's code, the equation
    number is unchecked.

    Example:
        >>> from exptilt.types import LogProbs, Pair
        >>> import torch
        >>> def side(total): return LogProbs.from_sums(torch.tensor([total]), torch.tensor([4]))
        >>> out = LengthNormalizedDPO(beta=0.4)(Pair(side(-8.0), side(-14.0)), Pair(side(-10.0), side(-12.0)))
        >>> round(out.loss.item(), 6)  # 0.4 * (0.5 + 0.5)
        0.513015
    """

    name: Literal["length_normalized_dpo"] = "length_normalized_dpo"
    beta: Positive = 5.0
    """Strength of the pull toward the reference per token, > 0."""

    kind: ClassVar = PAIR
    needs_lengths: ClassVar[bool] = True

    def __call__(self, policy: Pair, reference: Pair | None) -> PairLoss:
        """Loss and implicit rewards per token of each pair, (B,) nats."""
        chosen, rejected = (self.beta * side for side in mean_log_ratios(policy, reference))
        return PairLoss(-logsigmoid(chosen - rejected), chosen.detach(), rejected.detach())
