"""The known reward of the demo's world, as rewards are asked everywhere."""

from __future__ import annotations

from collections.abc import Sequence

from exptilt.preferences import Answer
from exptilt.testbed.reviews.sentiment import reward


def review_rewards(answers: Sequence[Answer]) -> list[float]:
    """The sentiment of opening and continuation together, in [-3, 3].

    Example:
        >>> review_rewards([Answer(prompt="to be fair , this comedy seems", text="splendid .")])[0] > 0
        True
    """
    return [reward(f"{answer.prompt} {answer.text.strip()}") for answer in answers]
