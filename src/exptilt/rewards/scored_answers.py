"""Calling a reward: its numbers are checked, and what was not scored is counted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from exptilt.errors import DataError, ExptiltError
from exptilt.preferences import Answer, Reward
from exptilt.wording import counted, in_one_line


def rewards_of(reward: Reward, answers: Sequence[Answer]) -> NDArray[np.float64]:
    """(N,) numbers of a reward, NaN where an answer is unscored.

    Raises:
        DataError: the reward raised, gave another shape than one number for each answer, or an infinite number.

    Example:
        >>> from exptilt.rewards.length_reward import Length
        >>> rewards_of(Length("words"), [Answer(prompt="Well?", text="no one knows")]).tolist()
        [3.0]
    """
    try:
        given = reward(answers)
    except ExptiltError:
        raise
    except Exception as error:
        kind = type(error).__name__
        raise DataError(f"reward {reward.name}: raised {kind}: {in_one_line(error)}") from error
    try:
        values = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"reward {reward.name}: must give numbers, got {in_one_line(error)}") from error
    if values.shape != (len(answers),):
        raise DataError(
            f"reward {reward.name}: gave an array of shape {values.shape} for {counted(len(answers), 'answer')}"
        )
    if np.isinf(values).any():
        first = int(np.flatnonzero(np.isinf(values))[0])
        raise DataError(
            f"reward {reward.name}: gave {values[first]} for answer {first + 1} of {len(answers)}; a reward is a finite number, "
            "or NaN where an answer is unscored"
        )
    return values


def require_spread(reward: Reward, values: NDArray[np.float64]) -> None:
    """Refuse a reward that prefers nothing.

    Raises:
        DataError: every answer is unscored, or all scored ones got the same number.
    """
    scored = values[~np.isnan(values)]
    if not len(scored):
        raise DataError(f"reward {reward.name}: scored none of {counted(len(values), 'answer')}")
    if len(scored) > 1 and np.all(scored == scored[0]):
        raise DataError(
            f"reward {reward.name}: gives {scored[0]:g} to all {counted(len(scored), 'answer')}, so it prefers none of them"
        )
