"""The reward that one word of a command line names: a YAML file with a `reward:` section, or `module:name`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from exptilt.preferences import Answer, Reward
from exptilt.rewards.reward_from_choice import build_reward
from exptilt.rewards.scored_answers import rewards_of
from exptilt.settings.load import load
from exptilt.settings.reward_settings import OwnReward, RewardFile


@dataclass(frozen=True)
class CheckedReward:
    """A reward whose numbers are checked wherever they are taken, see `rewards_of`."""

    reward: Reward

    @property
    def name(self) -> str:
        """The reward's."""
        return self.reward.name

    @property
    def identity(self) -> str:
        """The reward's."""
        return self.reward.identity

    @property
    def scale(self) -> str:
        """The reward's."""
        return self.reward.scale

    def __call__(self, answers: Sequence[Answer]) -> NDArray[np.float64]:
        """The reward's numbers."""
        return rewards_of(self.reward, answers)


def reward_by_name(which: str) -> Reward:
    """Make the reward, with its numbers checked.

    Raises:
        ConfigError: no such file, a setting that is wrong, or an import that fails.

    Example:
        >>> reward_by_name("exptilt.rewards.length_reward:Length").name
        'Length'
    """
    if Path(which).suffix in (".yaml", ".yml"):
        return CheckedReward(build_reward(load(RewardFile, which).reward))
    return CheckedReward(build_reward(OwnReward.read({"import": which})))
