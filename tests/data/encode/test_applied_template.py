from __future__ import annotations

import pytest

from exptilt.data.encode.applied_template import AppliedTemplate, folded
from exptilt.data.problems import RowError
from exptilt.errors import DataError

USER = {"role": "user", "content": "Q"}
SYSTEM = {"role": "system", "content": "Be brief."}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": '{"a": "b"}'}}]}
PLAIN = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + PLAIN
DROPS_SYSTEM = "{% for m in messages if m.role != 'system' %}[{{ m.role }}]{{ m.content }}{% endfor %}"


def applied(make_tokenizer, template, *, fold=False, **args):
    return AppliedTemplate(make_tokenizer(chat=template), args, fold_system=fold)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ 1 / 0 }}", "ZeroDivisionError: division by zero"),
        ("{{ messages.x.y }}", "'list object' has no attribute 'x'"),
        ("{{ 'a' + 1 }}", "TypeError: "),
        ("{{ messages[0].content.encode('utf-16').decode('ascii') }}", "UnicodeDecodeError: "),
        ("{{ none() }}", "TypeError: 'NoneType' object is not callable"),
        ("{{ range(9999999) | list }}", "OverflowError: "),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError: "),
        ("{{ messages.append(1) }}", "attribute 'append' of 'list' object is unsafe"),
        ("{% include 'x' %}", "no loader"),
        ("{{ raise_exception('one\n\ntwo' * 99) }}", "one twoone two"),
    ],
)
def test_an_error_of_any_class_is_one_line(make_tokenizer, template, said):
    with pytest.raises(RowError) as caught:
        applied(make_tokenizer, template).render((USER,), False, {})
    assert caught.value.code == "template_refused"
    message = str(caught.value)
    assert message.startswith("the chat template refuses the turns (user): ")
    assert said in message
    assert "\n" not in message
    assert len(message) < 200


def test_a_template_that_is_no_template_stops_the_run_and_not_each_row(make_tokenizer):
    with pytest.raises(DataError, match="the chat template is not valid in line 2: ") as caught:
        applied(make_tokenizer, "ok\n{% if %}").render((USER,), False, {})
    assert not isinstance(caught.value, RowError)


def test_arguments_are_values_for_a_template_that_wants_values_and_text_for_one_that_wants_text(make_tokenizer):
    wants = {
        "{{ c.function.arguments | tojson }}": '{"a": "b"}',
        "{{ 'args: ' + c.function.arguments }}": 'args: {"a": "b"}',
        "{{ c.function.arguments }}": '{"a": "b"}',
        "{{ c.function.arguments.a }}": "b",
    }
    for written, expected in wants.items():
        template = "{% for m in messages %}{% for c in m.tool_calls or [] %}" + written + "{% endfor %}{% endfor %}"
        assert applied(make_tokenizer, template).render((USER, CALL), False, {}) == expected


@pytest.mark.parametrize("template", [NO_SYSTEM, DROPS_SYSTEM])
def test_a_system_turn_is_folded_where_the_template_has_none_and_only_there(make_tokenizer, template):
    assert applied(make_tokenizer, template, fold=True).render((SYSTEM, USER), True, {}) == "[user]Be brief.\n\nQ"
    assert applied(make_tokenizer, PLAIN, fold=True).render((SYSTEM, USER), True, {}) == "[system]Be brief.[user]Q"


def test_a_refused_system_turn_names_the_setting(make_tokenizer):
    with pytest.raises(RowError, match=r"System role not supported; data\.fold_system=true puts"):
        applied(make_tokenizer, NO_SYSTEM).render((SYSTEM, USER), True, {})


def test_folding_needs_a_users_turn():
    assert folded((SYSTEM, CALL)) == (SYSTEM, CALL)
    assert folded((SYSTEM, CALL, USER)) == (CALL, {"role": "user", "content": "Be brief.\n\nQ"})


def test_the_advice_is_a_template_and_never_none(make_tokenizer):
    assert "data.chat_template=mistral" in applied(make_tokenizer, "[INST]").advice()
    assert "data.chat_template" in applied(make_tokenizer, PLAIN).advice()
    assert "plain" not in applied(make_tokenizer, PLAIN).advice()


def test_arguments_of_the_run_and_of_the_row(make_tokenizer):
    template = applied(make_tokenizer, "{{ a }}{{ b }}", a=1, b=2)
    assert template.render((USER,), False, {"b": 3}) == "13"
