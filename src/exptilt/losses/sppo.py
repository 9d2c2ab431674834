"""Self-Play Preference Optimization, with estimated win probabilities and with hard labels."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from exptilt.kinds import PAIR
from exptilt.losses.base import Loss, check_column, log_ratios
from exptilt.settings.declaration import config
from exptilt.settings.ranges import Positive
from exptilt.types import Pair, PairLoss


@config
class SPPO(Loss):
    """Self-Play Preference Optimization (Wu et al., 2024).

    With l the log-ratio log pi/pi_ref and p the probability that a completion beats the policy's own samples (the
    inputs `chosen_score` and `rejected_score`),

        loss = ((l_chosen - (p_chosen - 1/2) / beta)^2 + (l_rejected - (p_rejected - 1/2) / beta)^2) / 2

    Each log-ratio has its own finite target. Where policy and reference agree it is the mean square of the targets.

    Use when: each round samples several completions per prompt and a preference model estimates win probabilities.
    Known failure: gradients grow with the log-ratios (a target is hundreds of nats at beta 1e-3): clip them.
    Source: https://arxiv.org/abs/2405.00675 and the authors' code (beta is one over the paper's eta; the factor 1/2
    is the code's). TRL's hard-label form is `sppo_hard`. The formula was checked against the authors' code, the
    equation number is unchecked.

    Example:
        >>> from exptilt.types import LogProbs, Pair
        >>> import torch
        >>> def side(total): return LogProbs.from_sums(torch.tensor([total]), torch.tensor([5]))
        >>> policy, reference = Pair(side(-8.0), side(-14.0)), Pair(side(-10.0), side(-12.0))
        >>> one = torch.ones(1)
        >>> out = SPPO(beta=0.1)(policy, reference, chosen_score=0.9 * one, rejected_score=0.5 * one)
        >>> round(out.loss.item(), 5)  # ((2 - 4)^2 + (-2 - 0)^2) / 2
        4.0
    """

    name: Literal["sppo"] = "sppo"
    beta: Positive = 1e-3
    """One over the paper's eta, > 0: a sure win has the target 1 / (2 * beta)."""

    kind: ClassVar = PAIR
    inputs: ClassVar[tuple[str, ...]] = ("chosen_score", "rejected_score")

    def __call__(self, policy: Pair, reference: Pair | None, chosen_score: Tensor, rejected_score: Tensor) -> PairLoss:
        """Loss and implicit rewards of each pair, (B,); the scores are win probabilities in [0, 1]."""
        chosen, rejected = log_ratios(policy, reference)
        targets = []
        for side, score in (("chosen_score", chosen_score), ("rejected_score", rejected_score)):
            check_column(side, score, len(chosen))
            if bool(((score < 0) | (score > 1)).any()):
                raise ValueError(
                    f"{side} must be a win probability in [0, 1], got {float(score.min())} to {float(score.max())}"
                )
            targets.append((score.to(chosen) - 0.5) / self.beta)
        loss = ((chosen - targets[0]).square() + (rejected - targets[1]).square()) / 2
        return PairLoss(loss, self.beta * chosen.detach(), self.beta * rejected.detach())


@config
class SPPOHard(Loss):
    """SPPO with hard labels: the chosen completion always wins and the rejected one always loses.

    With l the log-ratio log pi/pi_ref,

        loss = (l_chosen - 1 / (2 * beta))^2 + (l_rejected + 1 / (2 * beta))^2

    This is the form in TRL (`sppo_hard`), and exactly the calibration term of Cal-DPO.

    Use when: only pairs exist, without win probabilities.
    Known failure: as SPPO's; certain labels also make its targets extreme.
    Source: https://arxiv.org/abs/2405.00675 as in TRL. Deviation from the paper: labels 1 and 0, and no factor 1/2.
    The formula was checked against TRL's code, the equation number is unchecked.

    Example:
        >>> from exptilt.types import LogProbs, Pair
        >>> import torch
        >>> def side(total): return LogProbs.from_sums(torch.tensor([total]), torch.tensor([5]))
        >>> out = SPPOHard(beta=0.1)(Pair(side(-8.0), side(-14.0)), Pair(side(-10.0), side(-12.0)))
        >>> out.loss.item()  # (2 - 5)^2 + (-2 + 5)^2
        18.0
    """

    name: Literal["sppo_hard"] = "sppo_hard"
    beta: Positive = 1e-3
    """The targets of the log-ratios are +-1 / (2 * beta); > 0."""

    kind: ClassVar = PAIR

    def __call__(self, policy: Pair, reference: Pair | None) -> PairLoss:
        """Loss and implicit rewards of each pair, (B,)."""
        chosen, rejected = log_ratios(policy, reference)
        loss = squares_to_targets(chosen, rejected, self.beta)
        return PairLoss(loss, self.beta * chosen.detach(), self.beta * rejected.detach())


def squares_to_targets(chosen: torch.Tensor, rejected: torch.Tensor, beta: float) -> torch.Tensor:
    """(B,) squared distances of the log-ratios to +-1 / (2 * beta)."""
    target = 1 / (2 * beta)
    return (chosen - target).square() + (rejected + target).square()
