from __future__ import annotations

import pytest

from exptilt.data.encode.fewer_turns import fewer_turns, has_turns
from exptilt.data.encode.tokens import Encoder
from exptilt.data.records import Demonstration
from exptilt.data.stage_account import Decisions
from exptilt.settings.data_settings import DataConfig

SYSTEM = {"role": "system", "content": "Be brief."}
REPLY = ({"role": "assistant", "content": "final"},)


def exchange(word):
    return {"role": "user", "content": f"question {word}"}, {"role": "assistant", "content": f"answer {word}"}


DIALOGUE = (SYSTEM, *exchange("one"), *exchange("two"), {"role": "user", "content": "question three"})


def record(prompt=DIALOGUE, completion=REPLY):
    return Demonstration(id="f:1", prompt=prompt, completion=completion)


def encoder(tokenizer, **options):
    return Encoder(tokenizer, decisions=Decisions(DataConfig(train="x").decisions), **options)


def length(made):
    return len(made.prompt) + len(made.completions[0].ids)


def test_as_few_whole_exchanges_go_as_make_it_fit_and_the_system_turn_stays(chat_tokenizer):
    ours = encoder(chat_tokenizer)
    expected = [record((SYSTEM, *DIALOGUE[first:])) for first in (3, 5)]
    (without_one, without_two), _ = ours.encode(expected)
    for room, kept in ((length(without_one), without_one), (length(without_one) - 1, without_two)):
        made = fewer_turns(ours, record(), room)
        assert made.prompt.tolist() == kept.prompt.tolist()
        assert made.completions[0].ids.tolist() == kept.completions[0].ids.tolist()
    assert chat_tokenizer.decode(without_two.prompt).startswith(
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user"
    )
    assert fewer_turns(ours, record(), length(without_two) - 1) is None


def test_results_of_tools_go_with_the_turn_that_asked_for_them(base_tokenizer):
    ours = encoder(base_tokenizer)
    asked = (*exchange("one"), {"role": "tool", "content": "result"}, *exchange("two")[::-1])
    made = fewer_turns(ours, record(asked), 60)
    assert base_tokenizer.decode(made.prompt) == "\n\nHuman: question two\n\nAssistant:"


def test_a_text_that_a_template_made_a_turn_of_has_no_place_to_cut(chat_tokenizer):
    ours = encoder(chat_tokenizer, template="chat")
    assert has_turns(ours, record("a long question " * 9, "A"))
    assert fewer_turns(ours, record("a long question " * 9, "A"), 30) is None


@pytest.mark.parametrize(("prompt", "completion", "expected"), [("Q", "A", False), ("Q", REPLY, True)])
def test_only_text_is_cut_between_tokens(base_tokenizer, prompt, completion, expected):
    assert has_turns(encoder(base_tokenizer), record(prompt, completion)) is expected
