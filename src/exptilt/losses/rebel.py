"""REBEL: regress the gap of rewards."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from exptilt.kinds import PAIR
from exptilt.losses.base import Loss, check_column, log_ratios
from exptilt.settings.declaration import config
from exptilt.settings.ranges import Positive
from exptilt.types import Pair, PairLoss


@config
class REBEL(Loss):
    """REBEL (Gao et al., 2024): the gap of implicit rewards is regressed on the gap of known rewards.

    With r = beta * (log pi(y|x) - log pi_ref(y|x)) and R the score of a completion,

        loss = ((r_chosen - r_rejected) - (R_chosen - R_rejected))^2

    It does not ask which completion is better, only by how much: an exchanged row has the same loss. Where pairs reach
    every completion its only optimum is pi_ref * exp(R / beta) / Z, without label noise and without a limit.

    Use when: completions have scores on a scale that means something (a reward model, a judge's points).
    Known failure: the score's scale sets the strength: scores from 0 to 100 at beta 1 ask for log-ratios of 100 nats.
    Source: https://arxiv.org/abs/2404.16767, regression objective; the paper's 1 / eta is beta here. The reference
    is the policy of the last iteration there, and that of the run here. The default beta is ours. Unchecked: the
    formula is from a description.

    Example:
        >>> import torch
        >>> from exptilt.types import LogProbs
        >>> def side(total): return LogProbs.from_sums(torch.tensor([total]), torch.tensor([5]))
        >>> policy, reference = Pair(side(-8.0), side(-14.0)), Pair(side(-10.0), side(-12.0))
        >>> scores = {"chosen_score": torch.tensor([3.0]), "rejected_score": torch.tensor([1.0])}
        >>> REBEL(beta=0.5)(policy, reference, **scores).loss.item()  # (0.5 * 4 - 2)^2
        0.0
    """

    name: Literal["rebel"] = "rebel"
    beta: Positive = 1.0
    """Strength of the pull toward the reference, in units of the score per nat, > 0."""

    kind: ClassVar = PAIR
    inputs: ClassVar[tuple[str, ...]] = ("chosen_score", "rejected_score")

    def __call__(self, policy: Pair, reference: Pair | None, chosen_score: Tensor, rejected_score: Tensor) -> PairLoss:
        """Loss of each pair, (B,) squared units of the score, and implicit rewards, (B,) units of the score."""
        chosen, rejected = (self.beta * side for side in log_ratios(policy, reference))
        better = check_column("chosen_score", chosen_score, len(chosen)).to(chosen)
        worse = check_column("rejected_score", rejected_score, len(chosen)).to(chosen)
        loss = ((chosen - rejected) - (better - worse)).square()
        return PairLoss(loss, chosen.detach(), rejected.detach())
