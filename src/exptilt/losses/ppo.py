"""Proximal policy optimization with a critic: the policy's loss, and the credit of tokens it is formed from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, NamedTuple

from torch import Tensor

from exptilt.kinds import ROLLOUT
from exptilt.losses.advantages import gae, token_rewards, whitened
from exptilt.losses.base import Loss, State, check_column
from exptilt.losses.importance import RATIO_ERROR, clipped_surrogate, log_weights
from exptilt.losses.kl_control import moved_beta, require_movable
from exptilt.losses.kl_estimates import token_log_ratios
from exptilt.settings.declaration import config
from exptilt.settings.ranges import NonNegative, Positive, Range
from exptilt.types import LogProbs, Measured, RolloutLoss, group_sums


class TokenCredit(NamedTuple):
    """What a rollout is learned from, each (N,) over all tokens of all its samples, without gradient."""

    advantages: Tensor
    returns: Tensor


@config
class PPO(Loss):
    """Proximal Policy Optimization (Schulman et al., 2017; Stiennon et al., 2020): a clipped policy gradient with a critic's advantages.

    A rollout earns r_t = -beta * log pi/pi_ref of each token and the reward at its last; advantages A are generalized advantage
    estimates of that, whitened over the whole rollout. With w = pi(y_t) / mu(y_t) where mu drew the token,

        loss = mean over tokens of max(-A w, -A clip(w, 1 - clip, 1 + clip))

    With `target_kl` beta is moved after each rollout until the KL is that: `beta (1 + gain * clip(KL / target_kl - 1, -0.2, 0.2))`.

    Use when: the method of the papers is to be compared with, or rollouts are so dear that several updates are taken of each.
    Known failure: whitening and several updates of a rollout overshoot the KL that beta asks for; give a target_kl.
    Source: https://arxiv.org/abs/1707.06347 and, for its details with language models, https://arxiv.org/abs/2403.17031; the controller
    is that of https://arxiv.org/abs/1909.08593. Checked against descriptions, the equation numbers are unchecked.

    Example:
        >>> import torch
        >>> samples = LogProbs(values=torch.tensor([-2.0, -3.0]), lengths=torch.tensor([1, 1]))
        >>> advantages = torch.tensor([1.0, -0.5])
        >>> PPO()(samples, samples, torch.tensor([2]), samples.tokens(), advantages).loss.item()  # w = 1: minus their mean
        -0.25
    """

    name: Literal["ppo"] = "ppo"
    beta: NonNegative = 0.05
    """Price of a nat of KL to the reference, in units of the reward, >= 0; with target_kl where it starts."""
    target_kl: Positive | None = None
    """KL to the reference that is wanted, nats per sequence; beta is then moved toward it. Null keeps beta."""
    gain: Positive = 0.1
    """How fast beta follows target_kl; at 0.1 it changes by at most 2 % after a rollout."""
    clip: Annotated[float, Range(gt=0, lt=1)] = 0.2
    """How far pi / mu may leave 1 before its gradient is cut."""
    gamma: Annotated[float, Range(gt=0, le=1)] = 1.0
    """Discount of rewards to come, token by token."""
    lam: Annotated[float, Range(ge=0, le=1)] = 0.95
    """How far an advantage looks ahead before it trusts the critic."""
    whiten: bool = True
    """Whether advantages get mean 0 and variance 1 over the whole rollout."""

    kind: ClassVar = ROLLOUT
    needs_tokens: ClassVar[bool] = True
    needs_lengths: ClassVar[bool] = True
    inputs: ClassVar[tuple[str, ...]] = ("behaviour", "advantages")
    follows_means: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check that a controller has something to move."""
        require_movable(self.beta, self.target_kl)

    @property
    def is_stateful(self) -> bool:  # type: ignore[override]
        """Where beta is moved."""
        return self.target_kl is not None

    def initial_state(self) -> State:
        """Beta before the first step."""
        return {"beta": self.beta}

    def state_after(self, state: State, means: Mapping[str, float]) -> State:
        """With beta moved by the KL of a new rollout."""
        return moved_beta(state, means, self.target_kl, self.gain)

    def credit(
        self, behaviour: LogProbs, reference: LogProbs, scores: Tensor, values: Tensor, state: State | None = None
    ) -> TokenCredit:
        """Advantages and returns of every token of a whole rollout, that of all processes.

        Args:
            behaviour: of the samples, under the policy that drew them.
            reference: of the same.
            scores: (B,) rewards of the samples.
            values: (N,) the critic's value of the prefix before each token.
            state: holds the beta of the moment.
        """
        beta = (state or self.initial_state())["beta"]
        ratios = token_log_ratios(behaviour, reference).detach()
        earned = token_rewards(ratios, scores, behaviour, beta)
        advantages, returns = gae(earned, values.to(earned), behaviour.lengths, gamma=self.gamma, lam=self.lam)
        return TokenCredit(whitened(advantages) if self.whiten else advantages, returns)

    def __call__(
        self,
        policy: LogProbs,
        reference: LogProbs | None,
        sizes: Tensor,
        behaviour: Tensor,
        advantages: Tensor,
        state: State | None = None,
    ) -> RolloutLoss:
        """Loss of each group, (G,), the mean over its tokens, with their number as its weight."""
        weights = log_weights(policy, behaviour)
        advantages = check_column("advantages", advantages, len(weights)).to(weights)
        terms, clipped = clipped_surrogate(weights, advantages, self.clip)
        at_drawing = token_log_ratios(policy, reference).detach() - weights.detach()
        tokens = group_sums(policy.nonempty_lengths().to(terms), sizes)
        counts = sizes.to(terms)
        measured: Measured = {
            "kl": (_of_groups(policy, at_drawing, sizes), counts),
            "beta": counts * 0 + (state or self.initial_state())["beta"],
            "clip_fraction": (_of_groups(policy, clipped.to(terms), sizes), tokens),
            RATIO_ERROR: (_of_groups(policy, weights.detach().abs(), sizes), tokens),
            "update_kl": (_of_groups(policy, -weights.detach(), sizes), counts),
        }
        loss = _of_groups(policy, terms, sizes) / tokens
        return RolloutLoss(loss, terms.new_zeros(len(policy)), sizes, weight=tokens, measured=measured)


def _of_groups(samples: LogProbs, units: Tensor, sizes: Tensor) -> Tensor:
    """(G,) sums over all tokens of all samples of each group."""
    return group_sums(samples.sum_of(units), sizes)
