"""Anchored Preference Optimization: zero, down, and zero for unpaired feedback."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from exptilt.kinds import PAIR, UNPAIRED
from exptilt.losses.base import Loss, check_column, log_ratio, log_ratios, row_weights
from exptilt.settings.declaration import config
from exptilt.settings.ranges import Positive
from exptilt.types import CompletionLoss, LogProbs, Pair, PairLoss


@config
class APOZero(Loss):
    """APO-zero (D'Oosterlinck et al., 2024): chosen up and rejected down, each against the reference.

    With r = beta * log pi/pi_ref,

        loss = 1 - sigmoid(r_chosen) + sigmoid(r_rejected)

    Equals 1 where policy and reference agree, and lies in (0, 2).

    Use when: the chosen completions are better than what the policy writes now.
    Known failure: saturates at both ends, so a pair that is badly wrong is given up.
    Source: https://arxiv.org/abs/2408.06266, eq. 7 (the authors point to TRL's `apo_zero`). No deviation. The
    formula was checked against TRL's code, the equation number is unchecked.

    Example:
        >>> from exptilt.types import LogProbs, Pair
        >>> import torch
        >>> def side(total): return LogProbs.from_sums(torch.tensor([total]), torch.tensor([5]))
        >>> out = APOZero(beta=0.1)(Pair(side(-8.0), side(-14.0)), Pair(side(-10.0), side(-12.0)))
        >>> round(out.loss.item(), 6)  # 2 * (1 - sigmoid(0.2))
        0.900332
    """

    name: Literal["apo_zero"] = "apo_zero"
    beta: Positive = 0.1
    """Strength of the pull toward the reference, > 0."""

    kind: ClassVar = PAIR

    def __call__(self, policy: Pair, reference: Pair | None) -> PairLoss:
        """Loss and implicit rewards of each pair, (B,)."""
        chosen, rejected = (self.beta * side for side in log_ratios(policy, reference))
        # 1 - sigmoid(r) as sigmoid(-r) keeps its digits for large r.
        return PairLoss((-chosen).sigmoid() + rejected.sigmoid(), chosen.detach(), rejected.detach())


@config
class APODown(Loss):
    """APO-down (D'Oosterlinck et al., 2024): chosen down, and rejected down further.

    With r = beta * log pi/pi_ref,

        loss = sigmoid(r_chosen) + 1 - sigmoid(r_chosen - r_rejected)

    Equals 1 where policy and reference agree, and lies in (0, 2).

    Use when: the policy already writes better than the chosen completions.
    Known failure: lowers good completions too if that premise is wrong.
    Source: https://arxiv.org/abs/2408.06266, eq. 8 (the authors point to TRL's `apo_down`). No deviation. The
    formula was checked against TRL's code, the equation number is unchecked.

    Example:
        >>> from exptilt.types import LogProbs, Pair
        >>> import torch
        >>> def side(total): return LogProbs.from_sums(torch.tensor([total]), torch.tensor([5]))
        >>> out = APODown(beta=0.1)(Pair(side(-8.0), side(-14.0)), Pair(side(-10.0), side(-12.0)))
        >>> round(out.loss.item(), 6)  # sigmoid(0.2) + 1 - sigmoid(0.4)
        0.951146
    """

    name: Literal["apo_down"] = "apo_down"
    beta: Positive = 0.1
    """Strength of the pull toward the reference, > 0."""

    kind: ClassVar = PAIR

    def __call__(self, policy: Pair, reference: Pair | None) -> PairLoss:
        """Loss and implicit rewards of each pair, (B,)."""
        chosen, rejected = (self.beta * side for side in log_ratios(policy, reference))
        return PairLoss(chosen.sigmoid() + (rejected - chosen).sigmoid(), chosen.detach(), rejected.detach())


@config
class APOZeroUnpaired(Loss):
    """APO-zero on single labelled completions: KTO without a reference point.

    With r = beta * log pi/pi_ref,

        loss = E_desirable[1 - sigmoid(r)] + E_undesirable[sigmoid(r)]

    With `balanced` the two expectations are means over the rows of each label, so a batch needs both; batches are planned so. Without, the
    objective is the mean of the same terms over all rows, as in TRL. On as many desirable as undesirable rows the first
    is twice the second.

    Use when: there are thumbs up and down, and KTO's mismatched completions are too dear or too noisy.
    Known failure: saturates at both ends, as KTO.
    Source: the simplified KTO that circulates, https://arxiv.org/abs/2408.06266 for the pairwise form. It is not
    KTO, which compares with a reference point (`kto`). The formula was checked against TRL's code, the equation
    number is unchecked.

    Example:
        >>> import torch
        >>> logps = LogProbs.from_sums(torch.tensor([-8.0, -14.0, -14.0]), torch.tensor([5, 5, 5]))
        >>> reference = LogProbs.from_sums(torch.tensor([-10.0, -12.0, -12.0]), torch.tensor([5, 5, 5]))
        >>> out = APOZeroUnpaired(beta=0.1)(logps, reference, torch.tensor([True, False, False]))
        >>> round(out.loss.mean().item(), 6)  # as the pairwise form: one mean per label
        0.900332
    """

    name: Literal["apo_zero_unpaired"] = "apo_zero_unpaired"
    beta: Positive = 0.1
    """Strength of the pull toward the reference, > 0."""
    balanced: bool = True
    """Mean over each label apart (True), or over all rows (False)."""

    kind: ClassVar = UNPAIRED

    @property
    def couples_batch(self) -> bool:  # type: ignore[override]
        """Through the number of rows of each label."""
        return self.balanced

    @property
    def needs_two(self) -> Literal["labels"] | None:
        """Rows of both labels, where each has a mean of its own."""
        return "labels" if self.balanced else None

    def __call__(
        self, policy: LogProbs, reference: LogProbs | None, desirable: Tensor, weights: Tensor | None = None
    ) -> CompletionLoss:
        """Loss and implicit reward of each completion, (B,)."""
        reward = self.beta * log_ratio(policy, reference)
        good = check_column("desirable", desirable, len(policy)).to(reward.device).bool()
        loss = torch.where(good, -reward, reward).sigmoid()
        if self.balanced:
            loss = loss * _per_label(good, row_weights(weights, loss))
        return CompletionLoss(loss, reward.detach())


def _per_label(good: Tensor, weights: Tensor) -> Tensor:
    """(B,) all weight over that of the rows with the same label, so that a mean over all rows is one for each label."""
    desirable, undesirable = ((weights * side).sum() for side in (good, ~good))
    if not (float(desirable) and float(undesirable)):
        missing = "undesirable" if float(desirable) else "desirable"
        raise ValueError(
            f"desirable: the batch has no {missing} row of weight above 0, so its mean over them is undefined; "
            "use larger batches, or balanced: false"
        )
    return weights.sum() / torch.where(good, desirable, undesirable)
