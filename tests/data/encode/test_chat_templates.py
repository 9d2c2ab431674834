from __future__ import annotations

import json

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from exptilt.data.encode.chat_templates import OWN, kin_of, own_template, refuse_unread, template_of, with_chat_template
from exptilt.data.encode.tokens import Encoder
from exptilt.data.records import Demonstration
from exptilt.data.stage_account import Decisions
from exptilt.errors import DataError
from exptilt.settings.data_settings import DataConfig

MARKS = {
    "gemma": ["<start_of_turn>", "<end_of_turn>"],
    "mistral": [
        "[INST]",
        "[/INST]",
        "[AVAILABLE_TOOLS]",
        "[/AVAILABLE_TOOLS]",
        "[TOOL_CALLS]",
        "[TOOL_RESULTS]",
        "[/TOOL_RESULTS]",
    ],
    "phi3": ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"],
    "qwen3": ["<|im_start|>", "<|im_end|>"],
}
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
TOOL = (
    '{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": '
    '{"city": {"type": "string"}}}}}'
)
CALL = '{"name": "weather", "arguments": {"city": "Zürich <1>"}}'


def user(text):
    return {"role": "user", "content": text}


def bot(text, **more):
    return {"role": "assistant", "content": text, **more}


SYSTEM = {"role": "system", "content": "Be brief."}
CALLS = bot("", tool_calls=[{"id": "abcdefghi", "type": "function", "function": json.loads(CALL)}])
RESULT = {"role": "tool", "content": '{"celsius": 21}', "tool_call_id": "abcdefghi"}
ROWS = {
    "single": ((user("2+2?"),), (bot("4"),), {}),
    "system": ((SYSTEM, user("2+2?")), (bot("4"),), {}),
    "several": ((user("2+2?"), bot("4"), user("And 3+3?")), (bot("6"), user("Sure?"), bot("Yes.")), {}),
    "tools": ((SYSTEM, user("Weather?")), (CALLS, RESULT, bot("Warm.")), {"tools": [WEATHER]}),
}
"""By kind: prompt, completion, arguments for the template."""

NO_THOUGHT = "<think>\n\n</think>\n\n"
QWEN_TOOLS = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function "
    f"signatures within <tools></tools> XML tags:\n<tools>\n{TOOL}\n</tools>\n\nFor each function call, return a json "
    "object with function name and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)
HERMES = (
    f"You may call these functions:\n<tools>\n{TOOL}\n</tools>\nA call is JSON with name and arguments between "
    "<tool_call> and </tool_call>."
)
HERMES_CALL = f"<tool_call>\n{CALL}\n</tool_call>"
HERMES_RESULT = '\n<tool_response>\n{"celsius": 21}\n</tool_response>'
BY_HAND = {
    ("qwen3", "single"): (
        "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n",
        [f"{NO_THOUGHT}4<|im_end|>"],
    ),
    ("qwen3", "system"): (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n",
        [f"{NO_THOUGHT}4<|im_end|>"],
    ),
    ("qwen3", "several"): (
        f"<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n{NO_THOUGHT}4<|im_end|>\n"
        "<|im_start|>user\nAnd 3+3?<|im_end|>\n<|im_start|>assistant\n",
        [
            f"{NO_THOUGHT}6<|im_end|>",
            "\n<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n",
            f"{NO_THOUGHT}Yes.<|im_end|>",
        ],
    ),
    ("qwen3", "tools"): (
        f"<|im_start|>system\nBe brief.\n\n{QWEN_TOOLS}<|im_end|>\n<|im_start|>user\nWeather?<|im_end|>\n"
        "<|im_start|>assistant\n",
        [
            f"{NO_THOUGHT}{HERMES_CALL}<|im_end|>",
            f"\n<|im_start|>user{HERMES_RESULT}<|im_end|>\n<|im_start|>assistant\n",
            f"{NO_THOUGHT}Warm.<|im_end|>",
        ],
    ),
    ("phi3", "single"): ("<|user|>\n2+2?<|end|>\n<|assistant|>\n", ["4<|end|>"]),
    ("phi3", "system"): ("<|system|>\nBe brief.<|end|>\n<|user|>\n2+2?<|end|>\n<|assistant|>\n", ["4<|end|>"]),
    ("phi3", "several"): (
        "<|user|>\n2+2?<|end|>\n<|assistant|>\n4<|end|>\n<|user|>\nAnd 3+3?<|end|>\n<|assistant|>\n",
        ["6<|end|>", "\n<|user|>\nSure?<|end|>\n<|assistant|>\n", "Yes.<|end|>"],
    ),
    ("phi3", "tools"): (
        f"<|system|>\nBe brief.\n\n{HERMES}<|end|>\n<|user|>\nWeather?<|end|>\n<|assistant|>\n",
        [f"{HERMES_CALL}<|end|>", f"\n<|user|>{HERMES_RESULT}<|end|>\n<|assistant|>\n", "Warm.<|end|>"],
    ),
    ("mistral", "single"): ("<s>[INST] 2+2?[/INST]", [" 4</s>"]),
    ("mistral", "system"): ("<s>[INST] Be brief.\n\n2+2?[/INST]", [" 4</s>"]),
    ("mistral", "several"): (
        "<s>[INST] 2+2?[/INST] 4</s>[INST] And 3+3?[/INST]",
        [" 6</s>", "[INST] Sure?[/INST]", " Yes.</s>"],
    ),
    ("mistral", "tools"): (
        f"<s>[AVAILABLE_TOOLS] [{TOOL}][/AVAILABLE_TOOLS][INST] Be brief.\n\nWeather?[/INST]",
        [
            f'[TOOL_CALLS] [{CALL[:-1]}, "id": "abcdefghi"}}]</s>',
            '[TOOL_RESULTS] {"content": {"celsius": 21}, "call_id": "abcdefghi"}[/TOOL_RESULTS]',
            " Warm.</s>",
        ],
    ),
    ("gemma", "single"): ("<s><start_of_turn>user\n2+2?<end_of_turn>\n<start_of_turn>model\n", ["4<end_of_turn>"]),
    ("gemma", "system"): (
        "<s><start_of_turn>user\nBe brief.\n\n2+2?<end_of_turn>\n<start_of_turn>model\n",
        ["4<end_of_turn>"],
    ),
    ("gemma", "several"): (
        "<s><start_of_turn>user\n2+2?<end_of_turn>\n<start_of_turn>model\n4<end_of_turn>\n"
        "<start_of_turn>user\nAnd 3+3?<end_of_turn>\n<start_of_turn>model\n",
        ["6<end_of_turn>", "\n<start_of_turn>user\nSure?<end_of_turn>\n<start_of_turn>model\n", "Yes.<end_of_turn>"],
    ),
    ("gemma", "tools"): (
        f"<s><start_of_turn>user\nBe brief.\n\n{HERMES}\n\nWeather?<end_of_turn>\n<start_of_turn>model\n",
        [
            f"{HERMES_CALL}<end_of_turn>",
            f"\n<start_of_turn>user{HERMES_RESULT}<end_of_turn>\n<start_of_turn>model\n",
            "Warm.<end_of_turn>",
        ],
    ),
}
"""Prompt, and completion in parts: what counts and what does not, in turn."""


def family(name):
    """A small tokenizer with the special tokens of a family of models."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        ["You may call these functions, and the weather is warm: user model assistant system"] * 9,
        trainers.BpeTrainer(
            vocab_size=340, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
        ),
    )
    core.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in MARKS[name]])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="module")
def families():
    return {name: family(name) for name in OWN}


def encoded(tokenizer, prompt, completion, args, **options):
    decisions = Decisions(DataConfig(train="x").decisions)
    record = Demonstration(id="f:1", prompt=prompt, completion=completion, template_args=args)
    (made,), account = Encoder(tokenizer, decisions=decisions, **options).encode([record])
    return made, {code: noted.detail for code, noted in account.noted.items()}


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("name", OWN)
def test_each_of_our_templates_gives_the_tokens_of_a_text_written_by_hand(families, name, kind):
    tokenizer = with_chat_template(families[name], name)
    made, found = encoded(tokenizer, *ROWS[kind])
    prompt, parts = BY_HAND[name, kind]

    def ids(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    assert made.prompt.tolist() == ids(prompt)
    (completion,) = made.completions
    assert completion.ids.tolist() == ids("".join(parts))
    expected = [at % 2 == 0 for at, part in enumerate(parts) for _ in ids(part)]
    assert np.array_equal(completion.counted, expected)
    assert found.keys() <= {"empty_think"}


@pytest.mark.parametrize("name", OWN)
def test_a_shorter_dialogue_is_the_beginning_of_a_longer_one(families, name):
    tokenizer = with_chat_template(families[name], name)
    dialogue = [
        SYSTEM,
        user("a"),
        bot(" b ", reasoning_content="r"),
        user("c"),
        CALLS,
        RESULT,
        bot("d"),
        user("e"),
        bot("f"),
    ]
    if name != "qwen3":
        dialogue[2] = bot(" b ")
    whole = tokenizer.apply_chat_template(dialogue, tokenize=False, tools=[WEATHER])
    for at, turn in enumerate(dialogue):
        if turn["role"] == "assistant":
            before = tokenizer.apply_chat_template(
                dialogue[:at], tokenize=False, add_generation_prompt=True, tools=[WEATHER]
            )
            after = tokenizer.apply_chat_template(dialogue[: at + 1], tokenize=False, tools=[WEATHER])
            assert whole.startswith(before)
            assert whole.startswith(after)


def test_thinking_is_written_from_its_key_and_from_the_content_alike(families):
    tokenizer = with_chat_template(families["qwen3"], "qwen3")
    texts = [
        tokenizer.apply_chat_template([user("Q"), turn], tokenize=False).split("assistant\n")[1]
        for turn in (bot("A", reasoning_content="so"), bot("<think>\nso\n</think>\n\nA"), bot("A </think> B"))
    ]
    assert texts[0] == texts[1] == "<think>\nso\n</think>\n\nA<|im_end|>\n"
    assert texts[2] == "<think>\n\n</think>\n\nA </think> B<|im_end|>\n"


def test_thinking_switched_off_for_a_run_puts_the_empty_block_into_the_prompt(families):
    tokenizer = with_chat_template(families["qwen3"], "qwen3")
    on, found_on = encoded(tokenizer, *ROWS["single"])
    off, found_off = encoded(tokenizer, *ROWS["single"], template_args={"enable_thinking": False})
    assert tokenizer.decode(on.completions[0].ids) == f"{NO_THOUGHT}4<|im_end|>"
    assert tokenizer.decode(off.prompt).endswith(f"assistant\n{NO_THOUGHT}")
    assert tokenizer.decode(off.completions[0].ids) == "4<|im_end|>"
    assert (found_on.keys(), found_off.keys()) == ({"empty_think"}, set())
    row_wins, _ = encoded(
        tokenizer, *ROWS["single"][:2], {"enable_thinking": True}, template_args={"enable_thinking": False}
    )
    assert row_wins.prompt.tolist() == on.prompt.tolist()


@pytest.mark.parametrize("name", ["gemma", "mistral"])
def test_turns_that_do_not_alternate_are_refused_in_words(families, name):
    tokenizer = with_chat_template(families[name], name)
    made, found = encoded(tokenizer, (user("a"), user("b")), (bot("c"),), {})
    assert made is None
    assert "needs turns of user and assistant in alternation" in found["template_refused"]


def test_names_in_the_folder_files_and_ours(base_tokenizer, tmp_path):
    (tmp_path / "mine.jinja").write_text("{{ messages[0].content }}", encoding="utf-8")
    assert template_of(with_chat_template(base_tokenizer, str(tmp_path / "mine.jinja"))) == "{{ messages[0].content }}"
    assert template_of(with_chat_template(base_tokenizer, "phi3")) == own_template("phi3")
    assert base_tokenizer.chat_template is None, "the tokenizer given is not changed"
    named = with_chat_template(base_tokenizer, "phi3")
    named.chat_template = {"rag": "{{ 1 }}", "tool_use": "{{ 2 }}"}
    chosen = with_chat_template(named, "rag")
    assert template_of(chosen) == "{{ 1 }}"
    chosen.save_pretrained(tmp_path / "saved")
    again = PreTrainedTokenizerFast.from_pretrained(tmp_path / "saved")
    assert template_of(with_chat_template(again, "rag")) == template_of(again) == "{{ 1 }}"
    with pytest.raises(
        DataError, match=r"several chat templates and no default; set data\.chat_template to rag or tool_use"
    ):
        template_of(named)


def test_a_name_that_nothing_has_is_one_line(base_tokenizer, tmp_path):
    with pytest.raises(DataError, match="no template and no file 'quen3'; did you mean 'qwen3'"):
        with_chat_template(base_tokenizer, "quen3")
    with pytest.raises(DataError, match=r"no file 'x\.jinja'; give gemma, mistral, phi3 or qwen3, or a \.jinja file"):
        with_chat_template(base_tokenizer, "x.jinja")
    (tmp_path / "bad.jinja").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DataError, match="cannot be read"):
        with_chat_template(base_tokenizer, str(tmp_path / "bad.jinja"))


def test_arguments_that_the_template_never_reads_are_a_mistake():
    refuse_unread(own_template("qwen3"), {"enable_thinking": False})
    with pytest.raises(
        DataError, match=r"enable_thinkin: the chat template reads nothing .* did you mean 'enable_thinking'"
    ):
        refuse_unread(own_template("qwen3"), {"enable_thinkin": False})
    with pytest.raises(DataError, match="has no chat template"):
        refuse_unread(None, {"enable_thinking": False})


def test_relatives_are_told_by_their_marks():
    assert [kin_of(own_template(name)) for name in OWN] == list(OWN)
    assert kin_of("[INST] <<SYS>>") is None
    assert kin_of("<|im_start|>{{ content }}") is None
