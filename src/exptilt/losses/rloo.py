"""REINFORCE with a leave-one-out baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor

from exptilt.kinds import ROLLOUT
from exptilt.losses.advantages import leave_one_out
from exptilt.losses.base import Loss, State, check_column, log_ratio
from exptilt.losses.importance import truncated_weights
from exptilt.losses.kl_control import moved_beta, require_movable
from exptilt.settings.declaration import config
from exptilt.settings.ranges import NonNegative, Positive
from exptilt.types import LogProbs, Measured, RolloutLoss, group_sums


@config
class RLOO(Loss):
    """REINFORCE leave-one-out (Ahmadian et al., 2024): the policy gradient of reward minus beta times KL, by K samples a prompt.

    With R = r - beta * log pi/pi_ref of a whole sample, not differentiated,

        loss = mean_i of -(R_i - mean_{j != i} R_j) * log pi(y_i)

    Its gradient is unbiased for that of E[r] - beta * KL(pi || pi_ref), with log-probabilities summed over the sample; its value
    means nothing. With `target_kl` beta is moved after each rollout until the KL is that: `beta (1 + gain * clip(KL / target_kl - 1,
    -0.2, 0.2))`.

    Use when: there is a reward to ask, and the optimum of reward and KL is wanted; take one update for each rollout.
    Known failure: credit is given to whole samples, so long ones learn slowly; samples of an older policy bias it.
    Source: https://arxiv.org/abs/2402.14740; the same arithmetic as TRL 1.16's. Deviation, off by default: `max_weight`
    multiplies a sample's share by min(pi/mu, max_weight), mu what drew it. The controller is that of Ziegler et al. (2019),
    https://arxiv.org/abs/1909.08593. The arithmetic was checked against TRL's code, the equation numbers are unchecked.

    Example:
        >>> import torch
        >>> logps = LogProbs.from_sums(torch.tensor([-2.0, -3.0]), torch.tensor([2, 2]))
        >>> RLOO()(logps, logps, torch.tensor([2]), torch.tensor([1.0, 0.0])).loss.item()  # (1 * 2 - 1 * 3) / 2
        -0.5
    """

    name: Literal["rloo"] = "rloo"
    beta: NonNegative = 0.05
    """Price of a nat of KL to the reference, in units of the reward, >= 0; with target_kl where it starts."""
    target_kl: Positive | None = None
    """KL to the reference that is wanted, nats per sequence; beta is then moved toward it. Null keeps beta."""
    gain: Positive = 0.1
    """How fast beta follows target_kl; at 0.1 it changes by at most 2 % after a rollout."""
    max_weight: Positive | None = None
    """Largest importance weight of a sample whose policy was older, or another program; null gives all weight 1."""

    kind: ClassVar = ROLLOUT
    follows_means: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check that a controller has something to move."""
        require_movable(self.beta, self.target_kl)

    @property
    def is_stateful(self) -> bool:  # type: ignore[override]
        """Where beta is moved."""
        return self.target_kl is not None

    @property
    def inputs(self) -> tuple[str, ...]:  # type: ignore[override]
        """Rewards, and the sampler's log-probabilities where samples are weighed."""
        return ("scores",) if self.max_weight is None else ("scores", "behaviour")

    @property
    def needs_tokens(self) -> bool:  # type: ignore[override]
        """Where samples are weighed."""
        return self.max_weight is not None

    def initial_state(self) -> State:
        """Beta before the first step."""
        return {"beta": self.beta}

    def state_after(self, state: State, means: Mapping[str, float]) -> State:
        """With beta moved by the KL of a new rollout."""
        return moved_beta(state, means, self.target_kl, self.gain)

    def __call__(
        self,
        policy: LogProbs,
        reference: LogProbs | None,
        sizes: Tensor,
        scores: Tensor,
        behaviour: Tensor | None = None,
        state: State | None = None,
    ) -> RolloutLoss:
        """Loss of each group, (G,)."""
        kl = log_ratio(policy, reference, "samples").detach()
        beta = (state or self.initial_state())["beta"]
        scores = check_column("scores", scores, len(policy)).to(kl)
        advantages = leave_one_out(scores - beta * kl, sizes)
        measured: Measured = {"kl": (group_sums(kl, sizes), sizes.to(kl)), "beta": sizes.to(kl) * 0 + beta}
        if self.max_weight is not None:
            advantages = advantages * truncated_weights(policy, behaviour, self.max_weight)
        loss = group_sums(-advantages * policy.sum(), sizes) / sizes.to(kl)
        return RolloutLoss(loss, scores, sizes, measured=measured)
