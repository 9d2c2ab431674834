"""Inputs on which another trainer goes wrong without a word, and what happens to them here."""

from __future__ import annotations

import json

import pytest

from exptilt.data.batching import Batches
from exptilt.data.prepared import prepare
from exptilt.errors import DataError
from exptilt.settings.data_settings import BatchConfig, DataConfig


def user(text):
    return {"role": "user", "content": text}


def bot(text):
    return {"role": "assistant", "content": text}


def write(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def prepared(tmp_path, rows, tokenizer, kind="pair", max_tokens=None, **settings):
    return prepare(DataConfig(train=write(tmp_path / "a.jsonl", rows), **settings), tokenizer, kind, max_tokens)


def sides(tokenizer, group):
    return [tokenizer.decode(part.ids[part.counted]) for part in group.completions]


LONG = " again" * 40


def test_truncation_is_never_silent(tmp_path, base_tokenizer):
    rows = [{"prompt": f"q {n}", "chosen": f"{LONG} good", "rejected": f"{LONG} bad"} for n in range(4)]
    rows += [{"prompt": f"{LONG} {n}", "chosen": " a", "rejected": " b"} for n in range(4)]
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, rows, base_tokenizer, max_tokens=30)
    assert "(4 rows: a.jsonl:1, 2, 3, 4)" in str(caught.value)
    assert "(4 rows: a.jsonl:5, 6, 7, 8)" in str(caught.value)
    with pytest.raises(DataError, match=r"identical once cut to max_tokens \(4 rows: a.jsonl:1, 2, 3, 4\)"):
        prepared(tmp_path, rows, base_tokenizer, max_tokens=30, on_too_long="trim_completion_end")
    rows[0]["rejected"] = " bad"
    left = prepared(
        tmp_path, rows, base_tokenizer, max_tokens=30, on_too_long="trim_completion_end", on_identical="drop"
    )
    assert left.report.train.examples_left_out == {"identical": 3, "does_not_fit": 4}
    cut, whole = left.train[0].completions
    assert base_tokenizer.eos_token_id not in cut.ids
    assert whole.ids[-1] == base_tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("chosen", "rejected"), [("Yes. ", "No, never."), ("The sky is blue", "The sky is black"), ("ab", "abc")]
)
def test_text_without_a_prompt_is_not_cut_at_a_shared_letter(tmp_path, bos_tokenizer, chosen, rejected):
    (group,) = prepared(tmp_path, [{"chosen": chosen, "rejected": rejected}], bos_tokenizer).train
    assert bos_tokenizer.decode(group.prompt) == "<bos>"
    assert sides(bos_tokenizer, group) == [f"{chosen}<eos>", f"{rejected}<eos>"]


def test_an_empty_side_and_an_identical_pair_are_refused_by_name(tmp_path, bos_tokenizer):
    rows = [{"chosen": "", "rejected": "x"}, {"chosen": "same", "rejected": "same"}]
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, rows, bos_tokenizer)
    assert "a.jsonl:1: chosen is empty" in str(caught.value)
    assert "a.jsonl:2: chosen and rejected are identical" in str(caught.value)


@pytest.mark.parametrize("whole", [True, False])
def test_a_text_prompt_beside_lists_of_messages(tmp_path, chat_tokenizer, whole):
    start = [user("What?")] if whole else []
    row = {"prompt": "What?", "chosen": [*start, bot("a")], "rejected": [*start, bot("b")]}
    (group,) = prepared(tmp_path, [row], chat_tokenizer).train
    assert chat_tokenizer.decode(group.prompt) == "<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\n"
    assert sides(chat_tokenizer, group) == ["a<|im_end|>", "b<|im_end|>"]


def test_a_prompt_repeated_in_its_completions_is_removed_or_named(tmp_path, chat_tokenizer, base_tokenizer):
    turns = {"prompt": [user("Q")], "chosen": [user("Q"), bot("a")], "rejected": [user("Q"), bot("b")]}
    (group,) = prepared(tmp_path, [turns], chat_tokenizer).train
    assert chat_tokenizer.decode(group.prompt).count("Q") == 1
    text = {"prompt": "2+2?", "chosen": "2+2? 4", "rejected": "2+2? 5"}
    findings = prepared(tmp_path, [text], base_tokenizer).report.findings
    assert [f.message for f in findings if f.code == "prompt_repeated"] == [
        "a.jsonl:1: chosen begins with its own prompt"
    ]


def test_bos_stands_once_in_text_that_was_templated_before(tmp_path, bos_tokenizer):
    row = {"prompt": "<bos>question", "chosen": " a<eos>", "rejected": " b<eos>"}
    made = prepared(tmp_path, [row], bos_tokenizer)
    for part in made.train[0].completions:
        ids = [*made.train[0].prompt, *part.ids]
        assert (ids.count(bos_tokenizer.bos_token_id), ids.count(bos_tokenizer.eos_token_id)) == (1, 1)
    assert "bos_in_text" in {finding.code for finding in made.report.findings}


def test_a_template_without_an_end_of_turn_stops_the_run(tmp_path, make_tokenizer):
    tokenizer = make_tokenizer(chat="{% for m in messages %}{{ m['content'] }}\n{% endfor %}")
    row = {"prompt": [user("Q")], "chosen": [bot("a")], "rejected": [bot("b")]}
    with pytest.raises(DataError, match="the model does not learn to stop"):
        prepared(tmp_path, [row], tokenizer)
    (group,) = prepared(tmp_path, [row], tokenizer, on_missing_end="append").train
    assert [part.ids[-1] for part in group.completions] == [tokenizer.eos_token_id] * 2


def test_user_and_tool_turns_of_a_response_are_not_trained_on(tmp_path, chat_tokenizer):
    tail = [bot("call"), {"role": "tool", "content": "result"}, bot("so"), user("thanks"), bot("bye")]
    row = {"prompt": [user("Q")], "chosen": tail, "rejected": [bot("no")]}
    (group,) = prepared(tmp_path, [row], chat_tokenizer).train
    assert sides(chat_tokenizer, group)[0] == "call<|im_end|>so<|im_end|>bye<|im_end|>"


@pytest.mark.parametrize("policy", ["drop", "trim_completion_end"])
def test_a_prompt_that_fills_the_context_never_becomes_an_example_without_tokens(tmp_path, base_tokenizer, policy):
    rows = [{"prompt": LONG, "chosen": " a", "rejected": " b"}, {"prompt": "q", "chosen": " a", "rejected": " b"}]
    with pytest.raises(DataError, match="the prompt alone has"):
        prepared(tmp_path, rows, base_tokenizer, max_tokens=20)
    made = prepared(tmp_path, rows, base_tokenizer, max_tokens=20, on_too_long=policy)
    assert [group.id for group in made.train] == ["a.jsonl:2"]
    assert all(part.length > 0 for group in made.train for part in group.completions)


def test_ratings_are_shuffled_each_epoch_and_a_batch_can_be_one_row(tmp_path, base_tokenizer):
    rows = [{"prompt": f"q {n}", "completion": f" a {n}", "label": n % 2 == 0} for n in range(32)]
    groups = prepared(tmp_path, rows, base_tokenizer, "unpaired").train
    batches = Batches(groups, BatchConfig(size=1), seed=0)
    orders = [[batches.groups(epoch * 32 + step)[0].id for step in range(32)] for epoch in range(2)]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(group.id for group in groups)
