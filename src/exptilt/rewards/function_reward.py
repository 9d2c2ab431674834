"""A function of answers as a reward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exptilt.preferences import Answer


@dataclass(frozen=True)
class FunctionReward:
    """Calls a function in this process; `own_reward` calls one that a recipe names in a process of its own.

    Example:
        >>> reward = FunctionReward(lambda answers: [len(one.text) for one in answers])
        >>> reward([Answer(prompt="Well?", text="no")]).tolist()
        [2.0]
    """

    function: Callable[[Sequence[Answer]], Any]
    """Gives one number for each answer; NaN is unscored."""

    @property
    def name(self) -> str:
        """The function's name."""
        return getattr(self.function, "__name__", type(self.function).__name__)

    @property
    def identity(self) -> str:
        """Module and name of the function, which do not tell two closures apart."""
        return (
            f"function {getattr(self.function, '__module__', '')}.{getattr(self.function, '__qualname__', self.name)}"
        )

    @property
    def scale(self) -> str:
        """Unknown."""
        return "reward"

    def __call__(self, answers: Sequence[Answer]) -> NDArray[np.float64]:
        """(N,) numbers of the function."""
        return np.asarray(self.function(answers), dtype=np.float64)
