"""Anchors: terms that hold absolute likelihoods, to be added to a contrast in a `mixture`.

Each is a loss on pairs of its own, so a weighted sum needs no second mechanism. s is the log-probability of a
completion, of its tokens together (`level: sum`) or per token (`level: mean`); r its value under the reference.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from exptilt.kinds import PAIR
from exptilt.losses.base import (
    Loss,
    Normalization,
    check_pair,
    log_ratios,
    mean_log_ratios,
    negative_log_likelihood,
)
from exptilt.losses.sppo import squares_to_targets
from exptilt.settings.declaration import config
from exptilt.settings.ranges import NonNegative, Positive
from exptilt.types import LogProbs, Pair, PairLoss

Level = Literal["mean", "sum"]


@config
class NLL(Loss):
    """Negative log-likelihood of the chosen completion; alone, it is Preferred-FT.

    With NLL_i = -log pi(y_chosen) of pair i and |y| its counted tokens, the objective of a batch is

        token:     sum NLL_i / sum |y_i|
        sequence:  mean of NLL_i / |y_i|
        sum:       mean of NLL_i

    Use when: the chosen likelihood must rise with the margin (DPO + NLL); as Preferred-FT, as a baseline. Trained on
    pairs of the reference's own samples with noise-free labels, Preferred-FT tends to best-of-2.
    Known failure: imitates everything in the chosen completion, its faults too.
    Source: sequence as in Iterative RPO (https://arxiv.org/abs/2404.19733, weight 1); token as in TRL from 0.29;
    sum as in the DPO authors' Preferred-FT. TRL up to 0.28 dropped real tokens of id 0 from this term. The sequence
    and token forms were checked against code, Iterative RPO's equation number is unchecked.

    Example:
        >>> chosen = LogProbs.from_sums(torch.tensor([-2.0, -12.0]), torch.tensor([1, 3]))
        >>> [NLL(normalization=kind)(Pair(chosen, chosen)).loss.mean().item() for kind in ("token", "sequence", "sum")]
        [3.5, 3.0, 7.0]
    """

    name: Literal["nll"] = "nll"
    normalization: Normalization = "sequence"
    """Tokens of the batch alike (token), completions alike by their mean (sequence), or by their sum (sum)."""

    kind: ClassVar = PAIR
    holds_likelihoods: ClassVar[bool] = True
    needs_reference: ClassVar[bool] = False

    @property
    def needs_lengths(self) -> bool:  # type: ignore[override]
        """Unless completions count by their sums."""
        return self.normalization != "sum"

    @property
    def couples_batch(self) -> bool:  # type: ignore[override]
        """Through the number of tokens of the batch."""
        return self.normalization == "token"

    def __call__(self, policy: Pair, reference: Pair | None = None, weights: Tensor | None = None) -> PairLoss:
        """Loss and log-probabilities as rewards of each pair, (B,) nats."""
        check_pair(policy)
        loss = negative_log_likelihood(policy.chosen, self.normalization, weights)
        return PairLoss(loss, policy.chosen.sum().detach(), policy.rejected.sum().detach())


@config
class HingeAnchor(Loss):
    """Hinge on absolute likelihoods, both sides.

    With s the log-probability of a completion,

        loss = max(0, tau - s_chosen) + max(0, s_rejected + tau)

    Use when: reproducing work that uses it; `anchor_reference_hinge` does what is usually meant.
    Known failure: log-probabilities are at most 0, so for tau > 0 the first term never switches off: it is NLL plus a
    constant, and the second is silent once s_rejected < -tau.
    Source: preference learning for segmentation, as circulated. No reference enters. Unchecked: there is no
    publication.

    Example:
        >>> def side(total): return LogProbs.from_sums(torch.tensor([total]), torch.tensor([2]))
        >>> round(HingeAnchor(tau=0.5)(Pair(side(-2.0), side(-0.5))).loss.item(), 6)  # (0.5 + 1) + (-0.25 + 0.5)
        1.75
    """

    name: Literal["anchor_hinge"] = "anchor_hinge"
    tau: NonNegative = 0.1
    """Threshold in nats, >= 0."""
    level: Level = "mean"
    """Per token, or of the whole completion."""

    kind: ClassVar = PAIR
    holds_likelihoods: ClassVar[bool] = True
    needs_reference: ClassVar[bool] = False

    @property
    def needs_lengths(self) -> bool:  # type: ignore[override]
        """Where likelihoods are per token."""
        return self.level == "mean"

    def __call__(self, policy: Pair, reference: Pair | None = None) -> PairLoss:
        """Loss and log-probabilities as rewards of each pair, (B,) nats."""
        check_pair(policy)
        chosen, rejected = _reduced(policy.chosen, self.level), _reduced(policy.rejected, self.level)
        return PairLoss(relu(self.tau - chosen) + relu(rejected + self.tau), chosen.detach(), rejected.detach())


@config
class ReferenceHingeAnchor(Loss):
    """Hinge against the reference: the chosen likelihood must not fall, the rejected one must not rise.

    With l = s - r the log-ratio log pi/pi_ref,

        loss = max(0, tau - l_chosen) + max(0, l_rejected + tau)

    Zero and silent once both sides are tau nats on the right side of the reference.

    Use when: "must not fall" is the requirement; tau = 0 says exactly that.
    Known failure: at tau = 0 it is at its kink where policy and reference agree, so it acts only after a fall.
    Source: its first term alone is DPOP's penalty (there inside the sigmoid). Unchecked: there is no publication.

    Example:
        >>> def side(total): return LogProbs.from_sums(torch.tensor([total]), torch.tensor([2]))
        >>> policy, reference = Pair(side(-8.0), side(-14.0)), Pair(side(-6.0), side(-12.0))
        >>> ReferenceHingeAnchor()(policy, reference).loss.item()  # the chosen fell by 1 per token, the rejected may
        1.0
    """

    name: Literal["anchor_reference_hinge"] = "anchor_reference_hinge"
    tau: NonNegative = 0.0
    """Distance from the reference in nats, >= 0."""
    level: Level = "mean"
    """Per token, or of the whole completion."""

    kind: ClassVar = PAIR
    holds_likelihoods: ClassVar[bool] = True

    @property
    def needs_lengths(self) -> bool:  # type: ignore[override]
        """Where likelihoods are per token."""
        return self.level == "mean"

    def __call__(self, policy: Pair, reference: Pair | None) -> PairLoss:
        """Loss and log-ratios as rewards of each pair, (B,) nats."""
        chosen, rejected = _reduced_ratios(policy, reference, self.level)
        return PairLoss(relu(self.tau - chosen) + relu(rejected + self.tau), chosen.detach(), rejected.detach())


@config
class LogSumExpAnchor(Loss):
    """Log-sum-exp of the four likelihoods: a smooth maximum of "chosen too unlikely" and "rejected too likely".

    With s the log-probability of a completion and r its value under the reference,

        loss = log(exp(-(s_chosen + r_chosen)) + exp(s_rejected + r_rejected))

    The gradient is a softmax: with (w, 1 - w) = softmax(-(s_chosen + r_chosen), s_rejected + r_rejected) it is -w on
    s_chosen and 1 - w on s_rejected, so the two always share one unit of pull ("softmax normalisation"). w =
    sigmoid(-(s_chosen + r_chosen + s_rejected + r_rejected)).

    Use when: reproducing work that uses it, per token.
    Known failure: all four terms are negative, so w >= 1/2; on sums of long completions w = 1 and this is NLL.
    Source: preference learning for segmentation, as circulated. Unchecked: there is no publication.

    Example:
        >>> def side(total): return LogProbs.from_sums(torch.tensor([total]), torch.tensor([2]))
        >>> pair = Pair(side(-2.0), side(-2.0))
        >>> round(LogSumExpAnchor()(pair, pair).loss.item(), 6)  # log(e^2 + e^-2)
        2.01815
    """

    name: Literal["anchor_logsumexp"] = "anchor_logsumexp"
    level: Level = "mean"
    """Per token, or of the whole completion."""

    kind: ClassVar = PAIR
    holds_likelihoods: ClassVar[bool] = True

    @property
    def needs_lengths(self) -> bool:  # type: ignore[override]
        """Where likelihoods are per token."""
        return self.level == "mean"

    def __call__(self, policy: Pair, reference: Pair | None) -> PairLoss:
        """Loss and log-ratios as rewards of each pair, (B,) nats."""
        chosen_ratio, rejected_ratio = _reduced_ratios(policy, reference, self.level)
        chosen, rejected = _sums_with_reference(policy, reference, self.level)
        return PairLoss(torch.logaddexp(-chosen, rejected), chosen_ratio.detach(), rejected_ratio.detach())


@config
class LinearAnchor(Loss):
    """The linear "anchor", which is none: it rewards the margin without end.

    With s the log-probability of a completion and r its value under the reference,

        loss = -(s_chosen + r_chosen) + (s_rejected + r_rejected)

    The reference terms have no gradient. Added to DPO with weight a on sums it is cDPO with label smoothing -a / beta.

    Use when: reproducing work that uses it.
    Known failure: no lower bound. Where labels agree with probability P there is no finite optimum once a / beta >= (1
    - P) / (2P - 1). On real segmentation data it destroyed the model (Dice 0.61 to 0.05). A `mixture` warns when it
    holds one.
    Source: preference learning for segmentation, as circulated. Unchecked: there is no publication.

    Example:
        >>> def side(total): return LogProbs.from_sums(torch.tensor([total]), torch.tensor([2]))
        >>> LinearAnchor()(Pair(side(-8.0), side(-14.0)), Pair(side(-6.0), side(-12.0))).loss.item()  # 7 - 13
        -6.0
    """

    name: Literal["anchor_linear"] = "anchor_linear"
    level: Level = "mean"
    """Per token, or of the whole completion."""
    allow_unbounded: bool = False
    """True says that you know this has no finite optimum, and silences the warning."""

    kind: ClassVar = PAIR
    holds_likelihoods: ClassVar[bool] = True

    @property
    def needs_lengths(self) -> bool:  # type: ignore[override]
        """Where likelihoods are per token."""
        return self.level == "mean"

    def __call__(self, policy: Pair, reference: Pair | None) -> PairLoss:
        """Loss and log-ratios as rewards of each pair, (B,) nats."""
        chosen_ratio, rejected_ratio = _reduced_ratios(policy, reference, self.level)
        chosen, rejected = _sums_with_reference(policy, reference, self.level)
        return PairLoss(rejected - chosen, chosen_ratio.detach(), rejected_ratio.detach())


@config
class CalAnchor(Loss):
    """Cal-DPO's squares alone: each log-ratio is drawn to a finite target.

    With l the log-ratio log pi/pi_ref,

        loss = (l_chosen - 1 / (2 * beta))^2 + (l_rejected + 1 / (2 * beta))^2

    Use when: rewards must have a known scale next to another contrast.
    Known failure: gradients grow with the log-ratios: clip them.
    Source: https://arxiv.org/abs/2412.14516; on sums it equals `sppo_hard`. The formula was checked against the
    authors' code, the equation number is unchecked.

    Example:
        >>> def side(total): return LogProbs.from_sums(torch.tensor([total]), torch.tensor([2]))
        >>> CalAnchor(beta=0.1, level="sum")(Pair(side(-8.0), side(-14.0)), Pair(side(-10.0), side(-12.0))).loss.item()
        18.0
    """

    name: Literal["anchor_cal"] = "anchor_cal"
    beta: Positive = 0.5
    """The targets are +-1 / (2 * beta); > 0."""
    level: Level = "mean"
    """Per token, or of the whole completion."""

    kind: ClassVar = PAIR
    holds_likelihoods: ClassVar[bool] = True

    @property
    def needs_lengths(self) -> bool:  # type: ignore[override]
        """Where likelihoods are per token."""
        return self.level == "mean"

    def __call__(self, policy: Pair, reference: Pair | None) -> PairLoss:
        """Loss and implicit rewards of each pair, (B,)."""
        chosen, rejected = _reduced_ratios(policy, reference, self.level)
        loss = squares_to_targets(chosen, rejected, self.beta)
        return PairLoss(loss, self.beta * chosen.detach(), self.beta * rejected.detach())


@config
class MDPOAnchor(Loss):
    """mDPO's anchor (Wang et al., 2024): the chosen completion's reward must be positive.

    With l the log-ratio log pi/pi_ref of the chosen completion, summed over its tokens,

        loss = -log sigmoid(beta * l_chosen)

    log 2 where policy and reference agree; its pull fades as the chosen likelihood rises above the reference's.

    Use when: beside DPO in a `mixture`, so that the chosen likelihood does not fall.
    Known failure: a raised likelihood alone satisfies it, whatever the rejected completion does; weights above 1 imitate.
    Source: https://arxiv.org/abs/2406.11839 and the authors' code, its anchor with threshold 0; the equation number is
    unchecked. mDPO's other new term contrasts pictures.

    Example:
        >>> def side(total): return LogProbs.from_sums(torch.tensor([total]), torch.tensor([2]))
        >>> out = MDPOAnchor(beta=0.1)(Pair(side(-8.0), side(-14.0)), Pair(side(-12.0), side(-12.0)))
        >>> round(out.loss.item(), 6)  # log(1 + e^-0.4)
        0.513015
    """

    name: Literal["anchor_mdpo"] = "anchor_mdpo"
    beta: Positive = 0.1
    """Strength of the pull toward the reference, > 0."""

    kind: ClassVar = PAIR
    holds_likelihoods: ClassVar[bool] = True

    def __call__(self, policy: Pair, reference: Pair | None) -> PairLoss:
        """Loss and implicit rewards of each pair, (B,) nats."""
        chosen, rejected = (self.beta * side for side in log_ratios(policy, reference))
        return PairLoss(-logsigmoid(chosen), chosen.detach(), rejected.detach())


def _reduced(logps: LogProbs, level: Level) -> Tensor:
    return logps.mean() if level == "mean" else logps.sum()


def _reduced_ratios(policy: Pair, reference: Pair | None, level: Level) -> tuple[Tensor, Tensor]:
    return mean_log_ratios(policy, reference) if level == "mean" else log_ratios(policy, reference)


def _sums_with_reference(policy: Pair, reference: Pair | None, level: Level) -> tuple[Tensor, Tensor]:
    """The sums s + r of both sides; called after the ratios, which refuse a missing reference."""
    assert reference is not None  # noqa: S101
    chosen = _reduced(policy.chosen, level) + _reduced(reference.chosen, level)
    return chosen, _reduced(policy.rejected, level) + _reduced(reference.rejected, level)
