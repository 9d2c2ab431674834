"""Several rewards as one: a weighted sum, clipped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exptilt.preferences import Answer, Reward
from exptilt.rewards.scored_answers import rewards_of


@dataclass(frozen=True)
class RewardSum:
    """A weighted sum of rewards.

        r(x, y) = min(high, max(low, sum_i w_i r_i(x, y)))

    An answer that one of the parts leaves unscored is unscored.

    Example:
        >>> from exptilt.rewards.length_reward import Length
        >>> both = RewardSum(((2.0, Length("words")), (-0.5, Length("characters"))), high=1.0)
        >>> both([Answer(prompt="", text="a b"), Answer(prompt="", text="abcd")]).tolist()
        [1.0, 0.0]
    """

    parts: tuple[tuple[float, Reward], ...]
    """Weights and rewards."""
    low: float | None = None
    high: float | None = None

    @property
    def name(self) -> str:
        """Weights and names of the parts."""
        return " + ".join(f"{weight:g} {reward.name}" for weight, reward in self.parts)

    @property
    def identity(self) -> str:
        """Weights, identities of the parts, and the ends."""
        parts = " + ".join(f"{weight!r} * ({reward.identity})" for weight, reward in self.parts)
        return f"{parts} in [{self.low}, {self.high}]"

    @property
    def scale(self) -> str:
        """Weights and scales of the parts."""
        return " + ".join(f"{weight:g} * ({reward.scale})" for weight, reward in self.parts)

    def __call__(self, answers: Sequence[Answer]) -> NDArray[np.float64]:
        """(N,) sums."""
        total = np.zeros(len(answers))
        for weight, reward in self.parts:
            total = total + weight * rewards_of(reward, answers)
        return total if self.low is None and self.high is None else np.clip(total, self.low, self.high)

    def close(self) -> None:
        """End what the parts keep running."""
        for _, reward in self.parts:
            if hasattr(reward, "close"):
                reward.close()
