from __future__ import annotations

import pytest

from exptilt.data.encode.conservation import lost_of_prompt, lost_of_turn
from exptilt.data.encode.render import Renderer
from exptilt.data.encode.tokens import Encoder
from exptilt.data.records import Demonstration, Preference
from exptilt.data.stage_account import Decisions
from exptilt.settings.data_settings import DataConfig

HEADERS = {
    "chatml": "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n",
    "llama3": "<|im_start|>{{ m.role }}<|im_end|>\n\n{{ m.content | trim }}<eos>",
    "zephyr": "<|{{ m.role }}|>\n{{ m.content }}<eos>\n",
    "phi4": "<|im_start|>{{ m.role }}<|im_sep|>{{ m.content }}<|im_end|>",
}
"""How the templates of four families write a turn, none of them with its calls."""
STARTS = {
    "chatml": "<|im_start|>assistant\n",
    "llama3": "<|im_start|>assistant<|im_end|>\n\n",
    "zephyr": "<|assistant|>\n",
    "phi4": "<|im_start|>assistant<|im_sep|>",
}
STRIPS_THOUGHT = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content.split('</think>')[-1] }}<eos>"
    "{% else %}<|im_start|>{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
)
"""As R1's: what the assistant thought goes."""
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich", "days": [1, True, 2.5]}}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {}}}


def user(text):
    return {"role": "user", "content": text}


def bot(text="", **more):
    return {"role": "assistant", "content": text, **more}


def looped(name, calls=""):
    return (
        f"{{% for m in messages %}}{HEADERS[name]}{calls}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{STARTS[name]}{{% endif %}}"
    )


def lost(make_tokenizer, template, completion, prompt=(), **args):
    record = Demonstration(id="f:1", prompt=prompt or (user("Q"),), completion=completion, template_args=args)
    return list(Renderer(make_tokenizer(chat=template)).render(record).lost)


@pytest.mark.parametrize("name", HEADERS)
def test_a_call_that_a_template_drops_is_reported_and_not_trained_as_an_empty_turn(make_tokenizer, name):
    tokenizer = make_tokenizer(chat=looped(name))
    assert lost(make_tokenizer, looped(name), (bot(tool_calls=[CALL]),)) == ["tool call 'weather'"]
    record = Demonstration(id="f:1", prompt=(user("Q"),), completion=(bot(tool_calls=[CALL]),))
    for policy, is_left_out in (("error", True), ("drop", True), ("keep", False)):
        decisions = Decisions(DataConfig(train="x", on_lost=policy).decisions)
        (made,), account = Encoder(tokenizer, decisions=decisions).encode([record])
        assert (made is None, bool(account.left_out)) == (is_left_out, is_left_out)
        (finding,) = account.findings(decisions)
        assert (finding.code, finding.severity) == ("content_lost", "error" if policy == "error" else "warning")
        assert "f:1: the rendered row lacks the tool call 'weather'" in str(finding)
        assert len(str(finding)) < 300


@pytest.mark.parametrize("name", HEADERS)
def test_a_template_that_writes_everything_loses_nothing(make_tokenizer, name):
    calls = "{% for c in m.tool_calls or [] %}{{ c | tojson }}{% endfor %}{{ m.reasoning_content }}"
    text = bot("A quick <|im_end|> one", reasoning_content="quick", tool_calls=[CALL])
    assert lost(make_tokenizer, looped(name, calls), (text,)) == []
    assert lost(make_tokenizer, looped(name), (bot("  padded\n"),)) == []


def test_reasoning_is_looked_for_whether_apart_or_in_the_content(make_tokenizer):
    assert lost(make_tokenizer, STRIPS_THOUGHT, (bot("<think>first this</think>yes"),)) == ["reasoning 'first this'"]
    assert lost(make_tokenizer, looped("chatml"), (bot("<think>first this</think>yes"),)) == []
    assert lost(make_tokenizer, looped("chatml"), (bot("yes", reasoning="first this"),)) == ["reasoning 'first this'"]
    untrained = (bot("yes", reasoning="first this", weight=0), user("R"), bot("no"))
    assert lost(make_tokenizer, looped("chatml"), untrained) == []


def test_thoughts_of_earlier_turns_may_go_but_not_what_was_said(make_tokenizer):
    history = (user("Q"), bot("<think>so</think>yes"), user("R"))
    assert lost(make_tokenizer, STRIPS_THOUGHT, (bot("no"),), history) == []
    drops_users = "{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content }}<eos>{% endif %}{% endfor %}"
    assert lost(make_tokenizer, drops_users, (bot("no"),)) == ["text of the user's turn in the prompt 'Q'"]


def test_tools_results_and_calls_in_the_prompt_are_looked_for(make_tokenizer):
    history = (user("Q"), bot("", tool_calls=[CALL]), {"role": "tool", "content": '{"celsius": "ü"}'})
    assert lost(make_tokenizer, looped("chatml"), (bot("Warm."),), history, tools=[TOOL]) == [
        "tool call in the prompt 'weather'",
        "tool 'weather'",
    ]
    as_json = looped("chatml").replace(
        "{{ m.content }}", "{{ m.content | tojson }}{{ (m.tool_calls or []) | tojson }}{{ (tools or []) | tojson }}"
    )
    assert lost(make_tokenizer, as_json, (bot("Warm."),), history, tools=[TOOL]) == []


def test_a_result_inside_a_completion_is_looked_for(make_tokenizer):
    turn = "[{{ m.role }}]{{ m.content }}{{ (m.tool_calls or []) | tojson }}<eos>"
    no_tools = f"{{% for m in messages if m.role != 'tool' %}}{turn}{{% endfor %}}"
    no_tools += "{% if add_generation_prompt %}[assistant]{% endif %}"
    reply = (bot("", tool_calls=[CALL]), {"role": "tool", "content": "21 degrees"}, bot("Warm."))
    assert lost(make_tokenizer, no_tools, reply) == ["tool's text '21 degrees'"]


def test_one_missing_value_of_a_call_is_enough():
    whole = 'weather(city="Zürich", days=[1, True, 2.5])'
    turn = bot(tool_calls=[CALL])
    assert list(lost_of_turn(turn, whole, [])) == []
    assert list(lost_of_turn(turn, whole.replace("Zürich", "Bern"), [])) == [
        "argument of the tool call weather 'Zürich'"
    ]
    assert list(lost_of_turn(turn, whole.replace("days", ""), [])) == ["argument of the tool call weather 'days'"]


def test_a_short_text_is_not_found_inside_a_longer_one_or_inside_a_mark():
    assert list(lost_of_turn(bot("yes", reasoning="yes, because"), "yes, because", [])) == ["text 'yes'"]
    assert list(lost_of_turn(bot("end"), "<|im_end|>", ["<|im_end|>"])) == ["text 'end'"]
    assert list(lost_of_turn(bot("a <|im_end|>"), "a <|im_end|><|im_end|>", ["<|im_end|>"])) == []


def test_pictures_beside_the_text_are_reported():
    assert list(lost_of_turn(bot("a", images=["x.png"]), "a", [])) == ["images of a turn \"['x.png']\""]
    assert list(lost_of_prompt([{**user("a"), "image": "x.png"}], None, "a", [])) == ["image of a turn 'x.png'"]


def test_without_a_template_reasoning_is_lost_too(base_tokenizer):
    pair = Preference(id="f:1", prompt=(user("Q"),), chosen=(bot("a", thinking="t"),), rejected=(bot("b"),))
    assert Renderer(base_tokenizer).render(pair).lost == ("reasoning 't'",)


def test_a_reason_under_a_name_that_nobody_reads_is_looked_for_too(make_tokenizer):
    assert lost(make_tokenizer, looped("chatml"), (bot("yes", thoughts="first this"),)) == [
        "'thoughts' of a turn 'first this'"
    ]
    writes = looped("chatml", "{{ m.thoughts }}")
    assert lost(make_tokenizer, writes, (bot("yes", thoughts="first this"),)) == []
    assert (
        lost(make_tokenizer, looped("chatml"), (bot("yes", thoughts="first this", train=False), user("so?"), bot("no")))
        == []
    )
    assert lost(make_tokenizer, looped("chatml"), (bot("yes", model_id="m", name="n"),)) == []
