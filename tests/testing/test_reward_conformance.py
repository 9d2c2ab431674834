"""The conformance kit passes rewards that are right and catches, by name, what is wrong."""

from __future__ import annotations

import random

import numpy as np
import pytest

from exptilt.preferences import Answer
from exptilt.rewards.length_reward import Length
from exptilt.rewards.weighted_sum import RewardSum
from exptilt.testing import check_reward, require_conforming_reward


def words(answers):
    return [len(answer.text.split()) for answer in answers]


def test_what_is_right_conforms():
    require_conforming_reward(Length())
    require_conforming_reward(words)
    require_conforming_reward(RewardSum(((2.0, Length("words")), (-0.5, Length("characters")))))
    require_conforming_reward(lambda answers: [np.nan if not answer.text else len(answer.text) for answer in answers])


class Nameless:
    identity, scale = "nameless", "letters"

    def __call__(self, answers):
        return words(answers)


def relative(answers):
    longest = max((len(answer.text) for answer in answers), default=1)
    return [len(answer.text) / longest for answer in answers]


def by_position(answers):
    return np.arange(len(answers)) + [len(answer.text) for answer in answers]


def tampers(answers):
    for answer in answers:
        answer.columns["answer"] = "mine"
    return words(answers)


@pytest.mark.parametrize(
    ("reward", "check", "said"),
    [
        (Nameless(), "declared", "it must have a name in words, got None"),
        (lambda answers: [[1.0]] * len(answers), "result", "gave an array of shape (5, 1) for 5 answers"),
        (lambda answers: ["much"] * len(answers), "result", "must give numbers"),
        (lambda answers: [np.inf] * len(answers), "result", "gave inf for answer 1 of 5"),
        (lambda answers: [np.nan] * len(answers), "result", "every answer is unscored"),
        (lambda answers: [answers[3].text[100] for _ in answers], "result", "raised IndexError"),
        (lambda answers: [random.random() for _ in answers], "repeat", "when asked again"),
        (by_position, "order", "in reverse"),
        (relative, "alone", "set couples_answers=True"),
        (lambda answers: np.concatenate([[len(one.text)] for one in answers]), "none", "raised ValueError"),
        (tampers, "unchanged", "it changes the answers"),
        (lambda answers: [1.0] * len(answers), "spread", "it gives 1 to every answer"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_caught_by_name(reward, check, said):
    faults = {finding.check: finding.fault for finding in check_reward(reward)}
    assert said in faults[check]
    with pytest.raises(AssertionError, match=f"does not conform(.|\n)*{check}: "):
        require_conforming_reward(reward)


def test_a_rollout_may_be_seen_as_a_whole():
    require_conforming_reward(relative, couples_answers=True)
    require_conforming_reward(relative, skip=("alone",))


def test_answers_of_your_own_are_what_it_is_checked_on():
    mine = [Answer(prompt="Q", text=text, columns={"truth": text[:1]}) for text in ("a", "bb")]

    def by_column(answers):
        return [len(answer.text) * (answer.columns["truth"] == "b") for answer in answers]

    require_conforming_reward(by_column, mine)
    assert "KeyError" in {finding.check: finding.fault for finding in check_reward(by_column)}["result"]
    with pytest.raises(ValueError, match="two at least"):
        check_reward(by_column, mine[:1])
    with pytest.raises(ValueError, match="there is no check 'alon'"):
        check_reward(by_column, mine, skip=("alon",))
