from __future__ import annotations

import gzip
import json

import pytest

from exptilt.data.encode.render import Renderer
from exptilt.data.formats.pairs import transcripts
from exptilt.data.problems import RowError
from exptilt.data.records import Demonstration, Preference
from exptilt.errors import DataError


def user(text):
    return {"role": "user", "content": text}


def bot(text):
    return {"role": "assistant", "content": text}


def demo(prompt, completion):
    return Demonstration(id="f:1", prompt=prompt, completion=completion)


def counted_text(whole, prompt):
    spans = whole.spans if whole.spans is not None else ((len(prompt), len(whole.text)),)
    return [whole.text[first:last] for first, last in spans]


def test_text_stays_as_it_is(chat_tokenizer):
    rendered = Renderer(chat_tokenizer).render(demo("Q: ", " a\n"))
    assert (rendered.prompt, rendered.wholes[0].text, rendered.by_template) == ("Q: ", "Q:  a\n", False)


def test_messages_by_the_chat_template_end_where_the_model_stops(chat_tokenizer):
    rendered = Renderer(chat_tokenizer).render(demo((user("Q"),), (bot("A"),)))
    assert rendered.prompt == "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n"
    assert rendered.wholes[0].text == rendered.prompt + "A<|im_end|>"
    assert rendered.wholes[0].ended


def test_only_the_assistants_turns_of_a_long_completion_count(chat_tokenizer, base_tokenizer):
    record = demo((user("Q1"),), (bot("A1"), user("Q2"), bot("A2")))
    chat = Renderer(chat_tokenizer).render(record)
    assert counted_text(chat.wholes[0], chat.prompt) == ["A1<|im_end|>", "A2<|im_end|>"]
    plain = Renderer(base_tokenizer).render(record)
    assert plain.wholes[0].text == "\n\nHuman: Q1\n\nAssistant: A1\n\nHuman: Q2\n\nAssistant: A2"
    assert counted_text(plain.wholes[0], plain.prompt) == [" A1", " A2"]


def test_plain_can_be_forced_and_chat_can_be_forced(chat_tokenizer, base_tokenizer):
    plain = Renderer(chat_tokenizer, "plain").render(demo((user("Q"),), (bot("A"),)))
    assert plain.wholes[0].text == "\n\nHuman: Q\n\nAssistant: A"
    chat = Renderer(chat_tokenizer, "chat").render(demo("Q", "A"))
    assert chat.wholes[0].text.endswith("Q<|im_end|>\n<|im_start|>assistant\nA<|im_end|>")
    with pytest.raises(DataError, match="the tokenizer has no chat template"):
        Renderer(base_tokenizer, "chat")


def test_a_template_without_an_end_token_is_noticed(make_tokenizer):
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    template += "{% if add_generation_prompt %}assistant: {% endif %}"
    rendered = Renderer(make_tokenizer(chat=template)).render(demo((user("Q"),), (bot("A"),)))
    assert not rendered.wholes[0].ended
    assert rendered.wholes[0].text == "user: Q\nassistant: A\n"


def test_a_template_whose_prompt_is_no_prefix_is_refused(make_tokenizer):
    template = "{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}"
    template += "{% if add_generation_prompt %}<think>{% endif %}"
    with pytest.raises(RowError, match=r"'<think>' alone, 'A<\|im_end\|>' then; .*data.chat_template") as caught:
        Renderer(make_tokenizer(chat=template)).render(demo((user("Q"),), (bot("A"),)))
    assert caught.value.code == "template_not_prefix"


def test_a_template_that_refuses_the_turns_is_one_line(make_tokenizer):
    renderer = Renderer(make_tokenizer(chat="{{ raise_exception('roles must alternate') }}"))
    with pytest.raises(RowError, match=r"refuses the turns .*: roles must alternate") as caught:
        renderer.render(demo((user("Q"), user("R")), (bot("A"),)))
    assert caught.value.code == "template_refused"


@pytest.mark.parametrize(
    ("prompt", "completion"),
    [
        ((user("Q"),), (user("R"), bot("A"))),
        ((user("Q"),), (bot("A"), user("R"))),
        ((user("Q"), {"role": "system", "content": "S"}), (bot("A"),)),
    ],
)
def test_orders_of_turns_that_no_chat_has(base_tokenizer, prompt, completion):
    with pytest.raises(RowError) as caught:
        Renderer(base_tokenizer).render(demo(prompt, completion))
    assert caught.value.code == "bad_roles"


def test_tool_calls_need_a_template(base_tokenizer):
    reply = ({"role": "assistant", "content": "", "tool_calls": [{"name": "f"}]},)
    with pytest.raises(RowError, match="tool calls need a chat template"):
        Renderer(base_tokenizer).render(demo((user("Q"),), reply))


def test_real_transcripts_come_back_character_by_character(real_data, base_tokenizer):
    renderer = Renderer(base_tokenizer)
    with gzip.open(real_data / "hh_rlhf" / "harmless-base.test.jsonl.gz") as file:
        rows = [json.loads(line) for line in file]
    changed = []
    for row in rows:
        record: Preference = transcripts(row, "x")
        wholes = renderer.render(record).wholes
        changed += [1 for whole, side in zip(wholes, ("chosen", "rejected"), strict=True) if whole.text != row[side]]
    assert len(changed) == 4  # the empty replies, written 'Assistant: ' there and 'Assistant:' here
