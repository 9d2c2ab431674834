"""Binary Classifier Optimization, for pairs and for unpaired feedback."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from exptilt.kinds import PAIR, UNPAIRED
from exptilt.losses.base import Loss, State, check_column, log_ratio, log_ratios, row_weights, weighted_mean
from exptilt.settings.declaration import config
from exptilt.settings.ranges import Positive
from exptilt.types import CompletionLoss, LogProbs, Pair, PairLoss


@config
class BCO(Loss):
    """Binary Classifier Optimization on pairs (Jung et al., 2024): is this completion good, with a moving threshold.

    With r = beta * log pi/pi_ref and delta, not differentiated, the mean over all steps so far of the batch means of
    all rewards,

        loss = -log sigmoid(r_chosen - delta) - log sigmoid(-(r_rejected - delta))

    The running mean counts every step once and includes the present one. Equals 2 log 2 where policy and reference
    agree.

    Use when: chosen and rejected come from different prompts or systems, so that absolute levels carry information.
    Known failure: delta remembers the whole run; after a change of data it lags.
    Source: https://arxiv.org/abs/2404.04656 and TRL up to 0.28. Deviation, off by default: `threshold: zero` sets
    delta = 0 as TRL from 0.29 and Liger do. The formula was checked against TRL's code, the equation number is
    unchecked.

    Example:
        >>> from exptilt.types import LogProbs, Pair
        >>> import torch
        >>> def side(total): return LogProbs.from_sums(torch.tensor([total]), torch.tensor([5]))
        >>> policy, reference = Pair(side(-8.0), side(-14.0)), Pair(side(-10.0), side(-14.0))
        >>> round(BCO(beta=0.1)(policy, reference).loss.item(), 6)  # rewards 0.2 and 0, delta 0.1
        1.288793
        >>> BCO(beta=0.1).next_state(BCO().initial_state(), policy, reference)["num_steps"]
        1.0
    """

    name: Literal["bco"] = "bco"
    beta: Positive = 0.01
    """Strength of the pull toward the reference, > 0."""
    threshold: Literal["running_mean", "zero"] = "running_mean"
    """Where the classifier's threshold lies: the mean reward of the run so far, or zero."""

    kind: ClassVar = PAIR

    @property
    def couples_batch(self) -> bool:  # type: ignore[override]
        """Through the mean reward."""
        return self.threshold == "running_mean"

    @property
    def is_stateful(self) -> bool:  # type: ignore[override]
        """Through the running mean."""
        return self.threshold == "running_mean"

    def initial_state(self) -> State:
        """Before the first step."""
        return {"mean_reward": 0.0, "num_steps": 0.0}

    def next_state(self, state: State, policy: Pair, reference: Pair | None, weights: Tensor | None = None) -> State:
        """With this batch counted in."""
        chosen, rejected = log_ratios(policy, reference)
        return _advance(state, self.beta * _mean((chosen + rejected) / 2, weights))

    def __call__(
        self, policy: Pair, reference: Pair | None, state: State | None = None, weights: Tensor | None = None
    ) -> PairLoss:
        """Loss and implicit rewards of each pair, (B,) nats."""
        chosen, rejected = (self.beta * side for side in log_ratios(policy, reference))
        if self.threshold == "zero":
            delta = chosen.new_zeros(())
        else:
            delta = _threshold(state or self.initial_state(), _mean((chosen + rejected) / 2, weights))
        loss = softplus(delta - chosen) + softplus(rejected - delta)
        return PairLoss(loss, chosen.detach(), rejected.detach())


@config
class BCOUnpaired(Loss):
    """Binary Classifier Optimization on single labelled completions (Jung et al., 2024).

    With r = beta * log pi/pi_ref and delta the running mean of the batch means of all rewards, not differentiated,

        loss = -log sigmoid(r - delta)      for a desirable completion
               -log sigmoid(-(r - delta))   for an undesirable one

    Equals log 2 where policy and reference agree.

    Use when: there are thumbs up and down but no pairs.
    Known failure: nothing rebalances unequal numbers of desirable and undesirable rows.
    Source: https://arxiv.org/abs/2404.04656 and TRL's BCO trainer. Not included: its density-ratio weights, which
    need a prompt classifier; pass them as row weights. The formula was checked against TRL's code, the equation
    number is unchecked.

    Example:
        >>> import torch
        >>> logps = LogProbs.from_sums(torch.tensor([-8.0, -14.0]), torch.tensor([5, 5]))
        >>> reference = LogProbs.from_sums(torch.tensor([-10.0, -14.0]), torch.tensor([5, 5]))
        >>> out = BCOUnpaired(beta=0.1)(logps, reference, torch.tensor([True, False]))
        >>> [round(value, 6) for value in out.loss.tolist()]  # rewards 0.2 and 0, delta 0.1
        [0.644397, 0.644397]
    """

    name: Literal["bco_unpaired"] = "bco_unpaired"
    beta: Positive = 0.1
    """Strength of the pull toward the reference, > 0."""

    kind: ClassVar = UNPAIRED
    couples_batch: ClassVar[bool] = True
    is_stateful: ClassVar[bool] = True

    def initial_state(self) -> State:
        """Before the first step."""
        return {"mean_reward": 0.0, "num_steps": 0.0}

    def next_state(
        self, state: State, policy: LogProbs, reference: LogProbs | None, weights: Tensor | None = None
    ) -> State:
        """With this batch counted in."""
        return _advance(state, self.beta * _mean(log_ratio(policy, reference), weights))

    def __call__(
        self,
        policy: LogProbs,
        reference: LogProbs | None,
        desirable: Tensor,
        state: State | None = None,
        weights: Tensor | None = None,
    ) -> CompletionLoss:
        """Loss and implicit reward of each completion, (B,) nats."""
        reward = self.beta * log_ratio(policy, reference)
        sign = torch.where(check_column("desirable", desirable, len(policy)).bool(), 1.0, -1.0).to(reward)
        delta = _threshold(state or self.initial_state(), _mean(reward, weights))
        return CompletionLoss(softplus(-sign * (reward - delta)), reward.detach())


def _mean(values: Tensor, weights: Tensor | None) -> Tensor:
    values = values.detach()
    return weighted_mean(values, row_weights(weights, values))


def _threshold(state: State, batch_mean: Tensor) -> Tensor:
    """The mean of all batch means, this one included."""
    return state["mean_reward"] + (batch_mean - state["mean_reward"]) / (state["num_steps"] + 1)


def _advance(state: State, batch_mean: Tensor) -> State:
    return {"mean_reward": float(_threshold(state, batch_mean)), "num_steps": state["num_steps"] + 1}
