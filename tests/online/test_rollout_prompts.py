"""Prompts with the words of their rows, and the order in which rollouts ask them."""

from __future__ import annotations

import pytest

from exptilt.data.groups import Group
from exptilt.errors import DataError
from exptilt.online.rollout_prompts import PromptOrder, digest_of_prompts, rollout_prompts
from exptilt.settings.data_settings import DataConfig


def groups_of(*names):
    return [Group(id=name, prompt=(), completions=()) for name in names]


def test_prompts_keep_their_words_and_their_answers(write_rows):
    path = write_rows("prompts.jsonl", [{"prompt": "2 + 2?", "answer": 4}, {"prompt": "Well?"}])
    data = DataConfig(train=str(path), format="prompt_only")
    [[second, first]] = rollout_prompts(data, [groups_of("prompts.jsonl:2", "prompts.jsonl:1")])
    assert (first.record.prompt, first.record.answer) == ("2 + 2?", "4")
    assert (second.record.prompt, second.record.answer) == ("Well?", None)
    one, other = digest_of_prompts([first]), digest_of_prompts([second])
    assert one != other


def test_a_completion_to_imitate_is_the_right_answer(write_rows):
    path = write_rows("rows.jsonl", [{"question": "3 + 3?", "answer": "6"}])
    [[only]] = rollout_prompts(DataConfig(train=str(path)), [groups_of("rows.jsonl:1")])
    assert only.record.answer == "6"


def test_rows_with_preferences_are_refused_unless_their_prompts_are_asked_for(write_rows):
    path = write_rows("pairs.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}])
    data, splits = DataConfig(train=str(path)), [groups_of("pairs.jsonl:1")]
    with pytest.raises(DataError, match="1 row with preferences, but `rollout:` samples completions itself") as refused:
        rollout_prompts(data, splits)
    assert "rollout.take_prompts=true" in str(refused.value)
    assert len(str(refused.value)) < 300
    assert rollout_prompts(data, splits, take_prompts=True)[0][0].record.prompt == "a"


@pytest.mark.parametrize(("num_prompts", "size"), [(5, 2), (3, 24), (7, 7), (100, 16)])
def test_every_prompt_is_asked_once_before_any_is_asked_again(num_prompts, size):
    order = PromptOrder(num_prompts=num_prompts, size=size, seed=3)
    asked = [place for rollout in range(3 * order.rollouts_per_epoch) for place in order.of(rollout)]
    for start in range(0, len(asked) - num_prompts + 1, num_prompts):
        assert sorted(asked[start : start + num_prompts]) == list(range(num_prompts))
    assert (order.rollouts_per_epoch - 1) * size < num_prompts <= order.rollouts_per_epoch * size


def test_the_order_is_seeded_or_that_of_the_file():
    orders = [PromptOrder(num_prompts=50, size=50, seed=seed).of(0) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert PromptOrder(num_prompts=50, size=10, seed=0, shuffle=False).of(1) == list(range(10, 20))
