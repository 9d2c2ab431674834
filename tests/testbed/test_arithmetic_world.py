"""The world of sums: every answer is right, the share of wrong demonstrations is the one asked for, nothing held out is shown."""

from __future__ import annotations

import numpy as np
import pytest

from exptilt.testbed.arithmetic_world import ArithmeticWorld

WORLD = ArithmeticWorld(largest=12)


def solved(prompt: str) -> str:
    first, second = (int("".join(side.split())) for side in prompt.removesuffix(" =").split(" + "))
    return " ".join(str(first + second))


def test_all_sums_are_there_once_with_the_right_answer():
    train, held_out = WORLD.prompts()
    assert (len(train), len(held_out)) == (135, 34)
    assert len({one.prompt for one in (*train, *held_out)}) == 169
    assert all(one.answer == solved(one.prompt) for one in (*train, *held_out))
    assert WORLD.prompts() == (train, held_out)


def test_demonstrations_are_wrong_as_often_as_asked_in_one_digit_and_show_nothing_held_out():
    rows = WORLD.demonstrations(4000, 0.4, np.random.default_rng(0))
    wrong = [row for row in rows if row.completion.strip() != solved(row.prompt)]
    assert len(wrong) / len(rows) == pytest.approx(0.4, abs=0.025)
    for row in wrong:
        digits, right = row.completion.split(), solved(row.prompt).split()
        assert sum(one != other for one, other in zip(digits, right, strict=True)) == 1
    later = {one.prompt for one in WORLD.prompts()[1]}
    assert not any(row.prompt in later for row in rows)
    assert [row.completion for row in WORLD.demonstrations(3, 0.0, np.random.default_rng(1))] == [
        " " + solved(row.prompt) for row in WORLD.demonstrations(3, 0.0, np.random.default_rng(1))
    ]
