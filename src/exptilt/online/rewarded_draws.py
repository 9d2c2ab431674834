"""Rewards of completions that were drawn outside of rollouts, for measurements on held-out prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from exptilt.errors import DataError
from exptilt.online.rollout import Floats
from exptilt.online.rollout_prompts import RolloutPrompt
from exptilt.preferences import Answer, Reward
from exptilt.rewards.scored_answers import rewards_of
from exptilt.sampling.draws import Draws

TruncatedReward = float | Literal["own", "unscored"]
"""What a completion is worth that was cut; see `RolloutConfig.truncated_reward`."""


@dataclass(frozen=True, eq=False)
class RewardOfDraws:
    """A reward, asked about draws as it is asked about rollouts."""

    reward: Reward
    prompts: Sequence[RolloutPrompt]
    """Whose words and answers the reward reads."""
    truncated: TruncatedReward = "own"

    def __call__(self, draws: Draws) -> Floats:
        """(N,) rewards of draws, NaN where one is unscored.

        Raises:
            DataError: a prompt of the draws is none of the prompts.
        """
        known = {one.group.prompt.tobytes(): one for one in self.prompts}
        asked = [known.get(prompt.tobytes()) for prompt in draws.prompts]
        if None in asked:
            raise DataError(
                f"prompt {asked.index(None) + 1} of {len(asked)} is none of the prompts that the reward knows"
            )
        answers = [
            answer_to(one, draws.texts[at], draws.ids[at])
            for at, place in enumerate(draws.prompt_index)
            if (one := asked[place]) is not None
        ]
        return with_cut(rewards_of(self.reward, answers), ~draws.ended, self.truncated)


def answer_to(prompt: RolloutPrompt, text: str, ids: np.ndarray) -> Answer:
    """A completion as a reward reads it, with the right answer of its prompt where there is one."""
    columns = {} if prompt.record.answer is None else {"answer": prompt.record.answer}
    return Answer(prompt=prompt.record.prompt, text=text, ids=ids, columns=columns)


def with_cut(rewards: Floats, is_cut: np.ndarray, truncated: TruncatedReward) -> Floats:
    """Rewards with those of completions that were cut replaced.

    Example:
        >>> with_cut(np.array([0.5, 0.7]), np.array([False, True]), -1.0).tolist()
        [0.5, -1.0]
        >>> with_cut(np.array([0.5, 0.7]), np.array([False, True]), "unscored").tolist()
        [0.5, nan]
    """
    if truncated == "own":
        return rewards
    return np.where(is_cut, np.nan if truncated == "unscored" else float(truncated), rewards)
