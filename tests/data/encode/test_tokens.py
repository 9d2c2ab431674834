from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exptilt.data.encode.tokens import Encoder, encode_prompts
from exptilt.data.records import Demonstration, Preference
from exptilt.data.stage_account import Decisions
from exptilt.policies.tokenizers import train_tokenizer
from exptilt.settings.data_settings import DataConfig

PLAIN_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30).filter(lambda text: "<" not in text)


def encode(tokenizer, *records, **options):
    config = DataConfig(train="x", on_missing_end=options.pop("on_missing_end", "keep"))
    encoder = Encoder(tokenizer, decisions=Decisions(config.decisions), **options)
    encoded, account = encoder.encode(records)
    return encoded, {code: noted.count for code, noted in account.noted.items()}


def text(prompt, completion):
    return Demonstration(id="f:1", prompt=prompt, completion=completion)


def counted(tokenizer, completion):
    return tokenizer.decode(completion.ids[completion.counted])


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompt=PLAIN_TEXT, chosen=PLAIN_TEXT, rejected=PLAIN_TEXT, boundary=st.sampled_from(["split", "merge"]))
def test_nothing_is_lost_and_bos_and_eos_stand_once(bos_tokenizer, prompt, chosen, rejected, boundary):
    record = Preference(id="f:1", prompt=prompt, chosen=chosen, rejected=rejected)
    ((front, sides, _),), found = encode(bos_tokenizer, record, boundary=boundary)
    for side, said in zip(sides, (chosen, rejected), strict=True):
        ids = [*front, *side.ids]
        assert bos_tokenizer.decode(ids) == "<bos>" + prompt + said + "<eos>"
        assert ids.count(1) == ids.count(2) == 1
        assert ids[-1] == 2
        assert side.counted[-1]
        if boundary == "merge":
            assert ids[1:-1] == bos_tokenizer(prompt + said, add_special_tokens=False)["input_ids"]
        elif "boundary_merged" not in found:
            assert front.tolist() == bos_tokenizer(prompt)["input_ids"]
            assert side.counted.all()


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompt=PLAIN_TEXT, reply=PLAIN_TEXT)
def test_prompts_to_sample_from_are_the_prompts_trained_on(chat_tokenizer, base_tokenizer, prompt, reply):
    turns = ({"role": "user", "content": prompt},)
    for tokenizer, asked in ((chat_tokenizer, turns), (base_tokenizer, turns), (base_tokenizer, prompt)):
        answer = reply if isinstance(asked, str) else ({"role": "assistant", "content": reply},)
        ((front, _, _),), found = encode(tokenizer, text(asked, answer))
        (sampled,) = encode_prompts(tokenizer, [asked])
        if "boundary_merged" not in found:
            assert front.tolist() == sampled.tolist()


def test_boundary_split_keeps_the_prompts_tokens_and_merge_those_of_the_whole(base_tokenizer):
    joint = base_tokenizer("the question", add_special_tokens=False)["input_ids"]
    alone = base_tokenizer("the ", add_special_tokens=False)["input_ids"]
    assert joint[: len(alone)] != alone
    (split,), found = encode(base_tokenizer, text("the ", "question"))
    assert found == {"boundary": 1}
    assert split.prompt.tolist() == alone
    assert base_tokenizer.decode(split.completions[0].ids) == "question<eos>"
    (merged,), _ = encode(base_tokenizer, text("the ", "question"), boundary="merge")
    assert [*merged.prompt, *merged.completions[0].ids][:-1] == joint
    assert merged.completions[0].counted.all()


def test_merge_of_two_sides_shares_what_both_share_and_does_not_count_prompt_tokens(base_tokenizer):
    record = Preference(id="f:1", prompt="the ", chosen="question", rejected="\n")
    ((front, (chosen, rejected), _),), _ = encode(base_tokenizer, record, boundary="merge")
    assert base_tokenizer.decode(front) == "the"
    assert counted(base_tokenizer, chosen) == " question<eos>"
    assert base_tokenizer.decode(rejected.ids) == " \n<eos>"
    assert counted(base_tokenizer, rejected) == "\n<eos>"


def test_a_tokenizer_that_would_add_a_space_merges_instead(metaspace_tokenizer):
    (encoded,), found = encode(metaspace_tokenizer, text("the answ", "er"))
    assert found["boundary_merged"] == 1
    ids = [*encoded.prompt, *encoded.completions[0].ids]
    assert metaspace_tokenizer.decode(ids, skip_special_tokens=True) == "the answer"
    (clean,), found = encode(metaspace_tokenizer, text("the answer", " is good"))
    assert found == {}
    assert metaspace_tokenizer.decode(clean.completions[0].ids) == "is good<eos>"


def test_bos_and_eos_already_in_the_text_are_not_doubled(bos_tokenizer):
    (encoded,), found = encode(bos_tokenizer, text("<bos>the", " cat<eos>"))
    assert found == {"bos_in_text": 1, "special_token_in_text": 1}
    assert bos_tokenizer.decode([*encoded.prompt, *encoded.completions[0].ids]) == "<bos>the cat<eos>"
    assert encoded.num_leading == 1


def test_a_chat_template_is_encoded_without_a_second_bos(make_tokenizer):
    template = "<bos>{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}"
    tokenizer = make_tokenizer(bos=True, chat=template)
    turns = text(({"role": "user", "content": "Q"},), ({"role": "assistant", "content": "A"},))
    (encoded,), _ = encode(tokenizer, turns)
    assert tokenizer.decode([*encoded.prompt, *encoded.completions[0].ids]) == "<bos>Q<|im_end|>A<|im_end|>"
    assert encoded.prompt.tolist() == tokenizer.apply_chat_template(
        turns.prompt, add_generation_prompt=True, return_dict=False
    )


def test_a_reward_model_reads_the_whole_as_the_tokenizer_reads_it(chat_tokenizer):
    turns = ({"role": "user", "content": "hello"}, {"role": "assistant", "content": " the reply"})
    record = Demonstration(id="f:1", prompt=turns[:1], completion=turns[1:])
    ((front, (completion,), _),), _ = encode(chat_tokenizer, record, whole=True)
    whole = chat_tokenizer.apply_chat_template(list(turns), tokenize=True, return_dict=True)["input_ids"]
    assert [*front, *completion.ids] == whole
    ((front, (completion,), _),), _ = encode(chat_tokenizer, record)
    assert len(front) + len(completion.ids) < len(whole)  # a policy stops at its end token
    assert chat_tokenizer.convert_ids_to_tokens(int(completion.ids[-1])) == "<|im_end|>"


def test_multi_turn_counts_only_the_assistant(chat_tokenizer, base_tokenizer):
    said = [("assistant", "the answer"), ("user", "again"), ("assistant", "sorry é")]
    record = text(({"role": "user", "content": "Q"},), tuple({"role": r, "content": c} for r, c in said))
    (chat,), _ = encode(chat_tokenizer, record)
    assert counted(chat_tokenizer, chat.completions[0]) == "the answer<|im_end|>sorry é<|im_end|>"
    (plain,), _ = encode(base_tokenizer, record)
    assert counted(base_tokenizer, plain.completions[0]) == " the answer sorry é<eos>"
    assert plain.completions[0].length < len(plain.completions[0].ids)


@pytest.mark.parametrize(("policy", "end"), [("keep", ""), ("append", "<eos>"), ("error", "")])
def test_a_template_without_an_end_token(make_tokenizer, policy, end):
    tokenizer = make_tokenizer(chat="{% for m in messages %}{{ m['content'] }}|{% endfor %}")
    turns = text(({"role": "user", "content": "Q"},), ({"role": "assistant", "content": "A"},))
    (encoded,), found = encode(tokenizer, turns, on_missing_end=policy)
    assert tokenizer.decode(encoded.completions[0].ids) == "A|" + end
    assert found == {"missing_end": 1}


def test_a_tokenizer_without_eos_is_reported(make_tokenizer):
    tokenizer = make_tokenizer(eos=False)
    (encoded,), found = encode(tokenizer, text("the", " cat"), on_missing_end="append")
    assert found == {"missing_end": 1}
    assert tokenizer.decode(encoded.completions[0].ids) == " cat"


def test_without_prompt_and_bos_the_first_token_does_not_count(base_tokenizer, bos_tokenizer):
    (bare,), found = encode(base_tokenizer, text("", "the cat"))
    assert len(bare.prompt) == 0
    assert bare.completions[0].counted.tolist() == [False] + [True] * (len(bare.completions[0].ids) - 1)
    assert found == {"first_token_unscored": 1}
    (with_bos,), found = encode(bos_tokenizer, text("", "the cat"))
    assert with_bos.prompt.tolist() == [1]
    assert with_bos.completions[0].counted.all()
    assert found == {}


def test_unknown_tokens_are_counted(word_tokenizer):
    _, found = encode(word_tokenizer, text("good", " film"), text("good", " movie"))
    assert found["unknown_tokens"] == 1


def test_ids_have_the_types_of_a_group(base_tokenizer):
    (encoded,), _ = encode(base_tokenizer, text("the", " cat"))
    assert encoded.prompt.dtype == np.int32
    assert encoded.completions[0].ids.dtype == np.int32
    assert encoded.completions[0].counted.dtype == np.bool_


def test_texts_that_occur_twice_are_tokenised_once_and_on_every_core(base_tokenizer, monkeypatch):
    """The pairs of one ranking share their prompt and their completions."""
    said = ["a", "b", "c"]
    records = [
        Preference(id=f"f:{one}{other}", prompt="Q", chosen=one, rejected=other)
        for one in said
        for other in said
        if one < other
    ]
    seen, switch = [], []

    def tokenised(texts):
        seen.append(texts)
        switch.append(os.environ["TOKENIZERS_PARALLELISM"])
        return base_tokenizer(texts, add_special_tokens=False)["input_ids"]

    for value in ("off", "false"):
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", value)
        encoder = Encoder(base_tokenizer, decisions=Decisions({}))
        monkeypatch.setattr(encoder, "_ids", tokenised)
        found, _ = encoder.encode(records)
        assert os.environ["TOKENIZERS_PARALLELISM"] == value
    assert seen == [["Q", "Qa", "Qb", "Qc"]] * 2
    assert switch == ["true", "false"]  # off is the command line's own, false a person's
    alone, _ = encode(base_tokenizer, records[1])
    assert [part.ids.tolist() for part in found[1].completions] == [part.ids.tolist() for part in alone[0].completions]


def test_turns_that_are_switched_off_do_not_count(chat_tokenizer, base_tokenizer):
    turns = (
        {"role": "assistant", "content": "A1", "weight": 0},
        {"role": "user", "content": "Q2"},
        {"role": "assistant", "content": "A2", "weight": 1},
        {"role": "user", "content": "Q3"},
        {"role": "assistant", "content": "A3", "train": False},
    )
    record = Demonstration(id="f:1", prompt=({"role": "user", "content": "Q1"},), completion=turns)
    for tokenizer, expected in ((chat_tokenizer, "A2<|im_end|>"), (base_tokenizer, " A2")):
        ((_, (completion,), _),), found = encode(tokenizer, record)
        assert counted(tokenizer, completion) == expected
        assert found == {}


def test_an_end_that_is_added_behind_a_turn_that_is_switched_off_does_not_count(base_tokenizer):
    turns = ({"role": "assistant", "content": "A1", "weight": 0},)
    ((_, (completion,), _),), _ = encode(
        base_tokenizer, Demonstration(id="f:1", prompt=({"role": "user", "content": "Q"},), completion=turns)
    )
    assert completion.length == 0


def test_text_beside_a_chat_template_is_asked_about_once_and_can_be_meant(chat_tokenizer, base_tokenizer):
    for tokenizer, template, expected in (
        (chat_tokenizer, "auto", {"text_beside_template": 1}),
        (chat_tokenizer, "messages", {}),
        (chat_tokenizer, "plain", {}),
        (chat_tokenizer, "chat", {}),
        (base_tokenizer, "auto", {}),
    ):
        assert encode(tokenizer, text("Q", "A"), template=template)[1] == expected


def test_a_tokenizer_trained_here_is_not_asked_about():
    tokenizer = train_tokenizer(["the answer to the question"], vocab_size=300)
    assert encode(tokenizer, text("Q", "A"))[1] == {}


def test_tools_on_a_text_row_are_used_or_refused(make_tokenizer):
    tools = "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}"
    tokenizer = make_tokenizer(chat=tools + "{% for m in messages %}{{ m.content }}<eos>{% endfor %}")
    record = Demonstration(id="f:1", prompt="Q", completion="A", template_args={"tools": [{"name": "f"}]})
    left_out, account = Encoder(tokenizer, decisions=Decisions({})).encode([record])
    assert left_out == [None]
    assert "data.template=chat puts text through it" in account.noted["template_refused"].detail
    (used,), _ = encode(tokenizer, record, template="chat")
    assert tokenizer.decode(used.prompt) == '{"name": "f"}Q<eos>'


def test_an_empty_think_block_that_counts_is_noted(make_tokenizer):
    block = "{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}<eos>"
    tokenizer = make_tokenizer(chat="{% for m in messages %}" + block + "{% endfor %}")
    turns = ({"role": "user", "content": "Q"},), ({"role": "assistant", "content": "A"},)
    assert encode(tokenizer, text(*turns))[1] == {"empty_think": 1}
    history = (*turns[0], *turns[1], *turns[0])
    assert encode(tokenizer, text(history, ({"role": "assistant", "content": "A", "weight": 0},)))[1] == {}


def test_arguments_of_a_row_that_nothing_reads_are_noted(chat_tokenizer):
    turns = ({"role": "user", "content": "Q"},), ({"role": "assistant", "content": "A"},)
    record = Demonstration(id="f:1", prompt=turns[0], completion=turns[1], template_args={"enable_thinking": False})
    assert encode(chat_tokenizer, record)[1] == {"template_args_unread": 1}
