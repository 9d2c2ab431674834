"""Group relative policy optimization."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from torch import Tensor

from exptilt.kinds import ROLLOUT
from exptilt.losses.advantages import group_relative
from exptilt.losses.base import Loss, State, check_column
from exptilt.losses.importance import RATIO_ERROR, clipped_surrogate, log_weights
from exptilt.losses.kl_control import moved_beta, require_movable
from exptilt.losses.kl_estimates import kl_of_tokens, token_log_ratios
from exptilt.settings.declaration import config
from exptilt.settings.ranges import NonNegative, Positive, Range
from exptilt.types import LogProbs, Measured, RolloutLoss, group_sums, owners


@config
class GRPO(Loss):
    """Group Relative Policy Optimization (Shao et al., 2024): PPO's clipped ratio, with rewards compared inside their group.

    With A = (r - mean r) / std r over the samples of a prompt, w = pi(y_t) / mu(y_t) where mu drew the token, and
    d = log pi/pi_ref of it,

        loss = mean_i 1/|y_i| sum_t max(-A_i w, -A_i clip(w, 1 - clip, 1 + clip)) + beta (exp(-d) - 1 + d)

    It optimises another objective than E[r] - beta * KL(pi || pi_ref): dividing by the standard deviation and by the length weighs
    prompts and samples, and the penalty in the loss has the gradient of KL(pi_ref || pi). `kl: reward` takes beta * sum_t d off the
    reward instead. Dr. GRPO is `divide_by_std: false` with `divide_by_length: false`. With these and `kl: reward` it is RLOO times
    (K - 1)/K.

    Use when: it is what is to be compared with, or rewards are right or wrong and beta is 0.
    Known failure: with a beta it ends far from the optimum of reward and KL; wrong samples grow long, since each counts by 1/|y|.
    Source: https://arxiv.org/abs/2402.03300, and https://arxiv.org/abs/2503.20783 for Dr. GRPO, whose constant divisor is 1 here.
    Deviation: 1e-4 is added to the standard deviation, as in TRL. Checked against TRL's code, the equation numbers are unchecked.

    Example:
        >>> import torch
        >>> logps = LogProbs(values=torch.tensor([-2.0, -3.0]), lengths=torch.tensor([1, 1]))
        >>> out = GRPO()(logps, logps, torch.tensor([2]), torch.tensor([1.0, 0.0]), logps.tokens())
        >>> out.loss.item(), out.measured["clip_fraction"][0].item()  # w = 1: minus the mean advantage
        (0.0, 0.0)
    """

    name: Literal["grpo"] = "grpo"
    beta: NonNegative = 0.04
    """Price of the KL penalty, in units of the advantage (kl: loss) or of the reward (kl: reward), >= 0."""
    kl: Literal["loss", "reward"] = "loss"
    """Where the penalty stands: a term of the loss for each token (k3), or taken off the sample's reward (k1)."""
    divide_by_std: bool = True
    """Whether rewards are divided by the standard deviation of their group."""
    divide_by_length: bool = True
    """Whether a sample's sum over tokens is divided by their number."""
    clip: Annotated[float, Range(gt=0, lt=1)] = 0.2
    """How far pi / mu may leave 1 before its gradient is cut; nothing is cut in the first update after a rollout."""
    target_kl: Positive | None = None
    """KL to the reference that is wanted, nats per sequence; beta is then moved toward it. Null keeps beta."""
    gain: Positive = 0.1
    """How fast beta follows target_kl; at 0.1 it changes by at most 2 % after a rollout."""

    kind: ClassVar = ROLLOUT
    needs_tokens: ClassVar[bool] = True
    inputs: ClassVar[tuple[str, ...]] = ("scores", "behaviour")
    follows_means: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check that a controller has something to move."""
        require_movable(self.beta, self.target_kl)

    @property
    def is_stateful(self) -> bool:  # type: ignore[override]
        """Where beta is moved."""
        return self.target_kl is not None

    @property
    def needs_lengths(self) -> bool:  # type: ignore[override]
        """Where sums are divided by them."""
        return self.divide_by_length

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
        behaviour: Tensor,
        state: State | None = None,
    ) -> RolloutLoss:
        """Loss of each group, (G,)."""
        ratios = token_log_ratios(policy, reference)
        kl = policy.sum_of(ratios.detach())
        beta = (state or self.initial_state())["beta"]
        rewards = scores = check_column("scores", scores, len(policy)).to(kl)
        if self.kl == "reward":
            rewards = scores - beta * kl
        advantages = group_relative(rewards, sizes, by_std=self.divide_by_std)
        owner = owners(policy.lengths, kl)
        weights = log_weights(policy, behaviour)
        terms, clipped = clipped_surrogate(weights, advantages[owner], self.clip)
        if self.kl == "loss":
            terms = terms + beta * kl_of_tokens(ratios, "k3")
        totals = policy.sum_of(terms)
        lengths = policy.nonempty_lengths().to(totals)
        counts = sizes.to(totals)
        measured: Measured = {
            "kl": (group_sums(kl, sizes), counts),
            "beta": counts * 0 + beta,
            "clip_fraction": (group_sums(policy.sum_of(clipped.to(totals)), sizes), group_sums(lengths, sizes)),
            RATIO_ERROR: (group_sums(policy.sum_of(weights.detach().abs()), sizes), group_sums(lengths, sizes)),
        }
        loss = group_sums(totals / lengths if self.divide_by_length else totals, sizes) / counts
        return RolloutLoss(loss, scores, sizes, measured=measured)
