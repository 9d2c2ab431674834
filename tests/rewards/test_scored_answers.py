from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from exptilt.errors import DataError
from exptilt.preferences import Answer
from exptilt.rewards.length_reward import Length
from exptilt.rewards.scored_answers import require_spread, rewards_of
from exptilt.rewards.weighted_sum import RewardSum

ANSWERS = [Answer(prompt="?", text=text) for text in ("a", "b b", "c c c")]


@dataclass
class Given:
    """A reward that gives what it is told to give."""

    values: Any
    name: str = "given"
    identity: str = "given"
    scale: str = "its own"

    def __call__(self, answers: Any) -> Any:
        if isinstance(self.values, Exception):
            raise self.values
        return self.values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, 2.0], r"reward given: gave an array of shape \(2,\) for 3 answers"),
        ([[1.0], [2.0], [3.0]], r"gave an array of shape \(3, 1\) for 3 answers"),
        (["good", "bad", "bad"], "reward given: must give numbers"),
        ([1.0, float("inf"), 0.0], "gave inf for answer 2 of 3"),
        (KeyError("answer"), "reward given: raised KeyError: 'answer'"),
    ],
)
def test_a_reward_that_is_none_is_refused_in_one_line(values, message):
    with pytest.raises(DataError, match=message) as refusal:
        rewards_of(Given(values), ANSWERS)
    assert "\n" not in str(refusal.value)


def test_a_reward_that_prefers_nothing_is_refused():
    with pytest.raises(DataError, match="gives 2 to all 2 answers"):
        require_spread(Given(None), np.array([2.0, np.nan, 2.0]))
    with pytest.raises(DataError, match="scored none of 3 answers"):
        require_spread(Given(None), np.full(3, np.nan))
    require_spread(Given(None), np.array([2.0, np.nan, 3.0]))


def test_a_sum_is_weighted_clipped_and_unscored_where_a_part_is():
    both = RewardSum(((2.0, Length("words")), (1.0, Given([0.0, np.nan, -100.0]))), low=-5.0)
    assert np.array_equal(rewards_of(both, ANSWERS), [2.0, np.nan, -5.0], equal_nan=True)
    assert RewardSum(((2.0, Length("words")),)).identity != RewardSum(((2.5, Length("words")),)).identity
