"""Process rewards, by hand: numbers of steps aggregated by each rule."""

from __future__ import annotations

import numpy as np
import pytest

from exptilt.errors import ConfigError, DataError
from exptilt.preferences import Answer
from exptilt.rewards.length_reward import Length
from exptilt.rewards.step_reward import StepReward
from exptilt.settings.declaration import config
from exptilt.settings.load import load
from exptilt.settings.reward_settings import AnyReward, StepsConfig


@config
class Holder:
    """A recipe with a reward."""

    reward: AnyReward


def by_column(rule: str, *columns) -> list[float]:
    answers = [Answer(prompt="Q", text="x", columns={} if each is None else {"scores": each}) for each in columns]
    return StepReward(StepsConfig(rule=rule, column="scores"), None)(answers).tolist()


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("min", [0.5, 0.0]), ("product", [0.36, 0.0]), ("mean", [2.2 / 3, 2 / 3]), ("last", [0.8, 1.0])],
)
def test_numbers_of_a_column_are_aggregated(rule, expected):
    np.testing.assert_allclose(by_column(rule, [0.9, 0.5, 0.8], [True, False, True]), expected)


def test_a_step_without_a_number_leaves_the_answer_unscored():
    found = by_column("mean", [1.0, None], [], None, [0.5])
    assert np.isnan(found[:3]).all()
    assert found[3] == 0.5


@pytest.mark.parametrize("rule", ["min", "mean", "last"])
def test_a_reward_scores_every_beginning(rule):
    answer = Answer(prompt="Q", text="a b\n\nc\nd e f\n")  # beginnings of 2, 3 and 6 words; blank steps are none
    expected = {"min": 2.0, "mean": 11 / 3, "last": 6.0}[rule]
    reward = StepReward(StepsConfig(rule=rule, reward={"kind": "length", "unit": "words"}), Length("words"))
    found = reward([answer, Answer(prompt="Q", text=" \n ")])
    assert found[0] == pytest.approx(expected)
    assert np.isnan(found[1])
    assert reward([]).tolist() == []


def test_what_cannot_be_aggregated_is_one_line():
    with pytest.raises(DataError, match=r"a product needs steps in \[0, 1\], got 1.5"):
        by_column("product", [0.5, 1.5])
    with pytest.raises(DataError, match="no row has the column 'scores'"):
        by_column("min", None, None)
    with pytest.raises(DataError, match="answer 1: 'scores' must be a list of numbers"):
        by_column("min", ["good"])
    for written, said in (
        ("{kind: steps, column: a}", "reward.rule: missing"),
        ("{kind: steps, rule: median, column: a}", "reward.rule: must be"),
        ("{kind: steps, rule: min}", "reward or column is missing"),
        ("{kind: steps, rule: min, column: a, reward: {kind: length}}", "column must be left out"),
        ("{kind: steps, rule: min, reward: {kind: lenth}}", "did you mean 'length'?"),
    ):
        with pytest.raises(ConfigError) as refusal:
            load(Holder, None, [f"reward={written}"])
        assert said in str(refusal.value)
