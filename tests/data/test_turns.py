from __future__ import annotations

import pytest

from exptilt.data.problems import RowError
from exptilt.data.turns import (
    calls_of,
    content_of,
    decoded,
    for_template,
    is_trained,
    reasoning_of,
    said_by,
    tools_of,
    without_added_nulls,
)


def call(arguments, name="f"):
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def bot(content="", **more):
    return {"role": "assistant", "content": content, **more}


def test_arguments_that_are_json_text_are_decoded_once_and_only_once():
    turn = bot(tool_calls=[call('{"city": "Paris", "raw": "{\\"a\\": 1}"}')])
    assert calls_of(turn) == [{"name": "f", "arguments": {"city": "Paris", "raw": '{"a": 1}'}}]
    assert for_template(turn)["tool_calls"] == [call({"city": "Paris", "raw": '{"a": 1}'})]
    assert for_template(turn, arguments_as_text=True)["tool_calls"] == [
        call('{"city": "Paris", "raw": "{\\"a\\": 1}"}')
    ]


@pytest.mark.parametrize("said", ["{not json", "Paris", "", "12"])
def test_text_that_is_no_json_object_stays_text(said):
    assert decoded(said) == said


def test_calls_flat_nested_as_text_and_in_openais_first_form_are_the_same_calls():
    flat = {"name": "f", "arguments": {"a": 1}}
    expected = [{"name": "f", "arguments": {"a": 1}}]
    assert calls_of(bot(tool_calls=[flat])) == expected
    assert calls_of(bot(tool_calls='[{"name": "f", "arguments": {"a": 1}}]')) == expected
    assert calls_of(bot(function_call={"name": "f", "arguments": '{"a": 1}'})) == expected
    assert for_template(bot(function_call={"name": "f", "arguments": '{"a": 1}'}))["tool_calls"] == [call({"a": 1})]
    for wrong in (["f"], "f", [{"function": "f"}], [{"arguments": {}}], 3):
        assert len(calls_of(bot(tool_calls=wrong))) == 1
        with pytest.raises(RowError, match="a tool call must be an object with a name and arguments"):
            for_template(bot(tool_calls=wrong))


def test_everything_a_turn_says_is_compared():
    turn = bot("yes", reasoning="because", tool_calls=[call({"b": 2, "a": 1})])
    assert said_by(turn) == 'because\nyes\nf({"a": 1, "b": 2})'
    assert reasoning_of(bot(thinking="so")) == reasoning_of(bot(reasoning_content="so", reasoning="")) == "so"
    assert (
        content_of({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}) == "ab"
    )
    with pytest.raises(RowError, match="'image_url'") as caught:
        content_of({"role": "user", "content": [{"type": "image_url", "image_url": {}}]})
    assert caught.value.code == "not_text"


@pytest.mark.parametrize("switch", [{"weight": 0}, {"train": False}, {"training": "false"}, {"loss": 0.0}])
def test_switches_turn_a_turn_off(switch):
    assert not is_trained(bot("a", **switch))
    assert for_template(bot("a", **switch)) == {"role": "assistant", "content": "a"}


def test_switches_turn_a_turn_on_or_are_refused():
    assert is_trained(bot("a", weight=1, train=True, loss=None))
    for wrong in (0.5, "maybe", 2):
        with pytest.raises(RowError, match="must be 0 or 1"):
            is_trained(bot("a", weight=wrong))


def test_reasoning_stands_under_every_name_templates_read():
    made = for_template(bot("a", thinking="so"))
    assert {made[key] for key in ("reasoning_content", "reasoning", "thinking")} == {"so"}


def test_nulls_that_a_table_of_all_tools_added_are_not_content_and_others_are():
    row = {"id": None, "messages": [{"content": "a", "tool_calls": [call({"city": "Paris", "x": None})]}]}
    assert without_added_nulls(row) == {
        "id": None,
        "messages": [{"content": "a", "tool_calls": [call({"city": "Paris"})]}],
    }
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"city": {}, "unit": {}}}}}]
    turn = bot(tool_calls=[call({"city": "Paris", "unit": None, "x": None})])
    assert for_template(turn, tools)["tool_calls"] == [call({"city": "Paris", "unit": None})]
    assert for_template(turn)["tool_calls"] == [call({"city": "Paris", "unit": None, "x": None})]
    as_text = bot(tool_calls=[call('{"x": null}')])
    assert for_template(as_text, tools)["tool_calls"] == [call({"x": None})]


def test_tools_keep_a_default_of_null_and_lose_nulls_that_no_schema_has():
    schema = {"name": "f", "parameters": {"properties": {"a": {"default": None, "enum": None}, "b": None}}}
    assert tools_of([schema]) == [{"name": "f", "parameters": {"properties": {"a": {"default": None}}}}]
    with pytest.raises(RowError, match="list of tools"):
        tools_of("get_weather")


@pytest.mark.parametrize(
    ("switch", "trained"),
    [
        ({"trainable": False}, False),
        ({"loss_mask": 0}, False),
        ({"loss_scale": 1.0}, True),
        ({"masked": True}, False),
        ({"masked": "false", "train": None}, True),
        ({"weight": 1, "masked": 1}, False),
    ],
)
def test_switches_of_other_tools_are_read(switch, trained):
    assert is_trained(bot("a", **switch)) is trained
    assert for_template(bot("a", **switch)) == {"role": "assistant", "content": "a"}


@pytest.mark.parametrize(
    "unclear", [{"mask": True}, {"mask": 0}, {"train_detail": [{"begin_offset": 0}]}, {"loss_weight": 1}]
)
def test_what_may_be_a_switch_and_cannot_be_read_is_refused(unclear):
    (key,) = unclear
    with pytest.raises(RowError, match=rf"'{key}' of a turn is not read, and may say what is trained; write `train`"):
        is_trained(bot("a", **unclear))
