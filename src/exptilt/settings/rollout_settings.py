"""`rollout:` of a recipe: the run trains on completions that its own policy draws. Never imports torch.

loss: rloo
data: {train: prompts.jsonl}
rollout: {num_samples: 8, reward: {kind: verifier, check: gsm8k}}
"""

from __future__ import annotations

from typing import Annotated, Literal

from exptilt.settings.declaration import config
from exptilt.settings.own_parts import OwnPart
from exptilt.settings.ranges import Finite, NonNegative, Positive, Range
from exptilt.settings.reward_settings import AnyReward, OwnReward
from exptilt.settings.rounds_settings import RoundLaw, most_pairs
from exptilt.settings.sampler_settings import SamplerConfig


@config
class RolloutConfig:
    """Completions that are drawn from the policy while it is trained, and the reward that says how good they are.

    One rollout is `num_samples` completions of each of `num_prompts` prompts, all of one version of the policy.

    Example:
        >>> RolloutConfig(num_samples=4).updates(batch_size=16), RolloutConfig(num_prompts=64, epochs=2).updates(batch_size=16)
        (1, 8)
    """

    reward: AnyReward | None = None
    """Says how good a completion is, e.g. {kind: model, path: my-reward-model}; not for distill, which learns from a teacher."""
    num_samples: Annotated[int, Range(ge=1)] = 8
    """Completions of each prompt."""
    num_prompts: Annotated[int, Range(ge=1)] | None = None
    """Prompts of a rollout, a multiple of batch.size. Default: batch.size, so that each rollout is one update."""
    epochs: Annotated[int, Range(ge=1)] = 1
    """Passes over each rollout; more than one needs a loss that corrects for older samples, such as ppo."""
    law: RoundLaw = RoundLaw()
    """How completions are drawn; only a loss on pairs may have another law than the model's own."""
    truncated_reward: Finite | Literal["own", "unscored"] = "own"
    """Reward of a completion that was cut at law.max_new_tokens; own: what the reward says of the cut text; unscored: it is left out."""
    pairs: Literal["best_worst", "all", "adjacent", "first_rest", "neighbours"] = "best_worst"
    """Of a loss on pairs: which two completions of a prompt make one. best_worst: of the greatest and the smallest reward;
    neighbours: the first with the second, the third with the fourth, which are independent."""
    decide: Literal["greater", "coin", "soft"] = "greater"
    """Of a loss on pairs. greater: the greater reward is preferred; coin: with probability sigmoid(scale * difference); soft: that
    probability is p_chosen."""
    scale: Positive = 1.0
    """Multiplies differences of rewards for coin and soft (Bradley-Terry)."""
    min_margin: NonNegative = 0.0
    """Pairs whose rewards differ less are left out."""
    on_tie: Literal["drop", "keep"] = "drop"
    """Of a loss on pairs: two completions of equal reward; keep makes a pair with p_chosen 0.5."""
    take_prompts: bool = False
    """Whether rows with preferences may be asked as prompts, their completions unread; false refuses them."""
    sampler: SamplerConfig | None = None
    """A server that draws and is given the policy's adapter after every update, e.g. {url: "http://localhost:8000/v1"}; none: the
    run draws itself."""
    samples_at_once: Annotated[int, Range(ge=1)] = 256
    """Completions drawn at a time; it changes nothing beyond rounding."""

    def __post_init__(self) -> None:
        if callable(self.reward):  # Python code may give a function or an object by what it imports
            object.__setattr__(self, "reward", OwnReward.read(OwnPart.of(self.reward).written()))

    def prompts_per_rollout(self, batch_size: int) -> int:
        """Prompts of one rollout."""
        return self.num_prompts or batch_size

    def updates(self, batch_size: int) -> int:
        """Optimizer steps on one rollout."""
        return self.prompts_per_rollout(batch_size) // batch_size * self.epochs

    @property
    def pairs_of_a_prompt(self) -> int:
        """Most pairs that the completions of one prompt make."""
        return most_pairs(self.pairs, self.num_samples)

    @property
    def bent(self) -> tuple[str, ...]:
        """Settings of the law under which completions are no samples of the model's own distribution."""
        own = RoundLaw()
        return tuple(
            name for name in ("temperature", "top_k", "top_p") if getattr(self.law, name) != getattr(own, name)
        )
