"""A column means the same in every format, and a dialogue is read however much of its context each side repeats."""

from __future__ import annotations

import json

import pytest
from invented_rows import OPENAI, bot, sides, user

from exptilt.data.formats.column_names import meaning_of
from exptilt.data.problems import RowError
from exptilt.data.splits import read_splits
from exptilt.data.stage_account import Decisions
from exptilt.errors import DataError
from exptilt.settings.data_settings import DataConfig

SYSTEM = {"role": "system", "content": "S"}
RATED = {"correctness": 1, "coherence": 1, "complexity": 1, "verbosity": 1}
FORMATS = {  # rows that ask "Q" under each format
    "preference": [{"prompt": "Q", "chosen": "a", "rejected": "b"}],
    "openai": [{**OPENAI, "input": {"messages": [user("Q")]}}],
    "pku_safe": [
        {"prompt": "Q", "response_0": "a", "response_1": "b", "is_response_0_safe": 1, "is_response_1_safe": 0}
    ],
    "arena": [{"conversation_a": [user("Q"), bot("a")], "conversation_b": [user("Q"), bot("b")], "winner": "a"}],
    "comparisons": [{"question": "Q", "answers": ["a", "b"], "pair_labels": [{"i": 0, "j": 1, "label": "i"}]}],
    "messages": [{"messages": [user("Q"), bot("a")]}],
    "rated_messages": [{"messages": [user("Q"), bot("a")], "label": True}],
    "stepwise": [{"prompt": "Q", "completions": ["a"], "labels": [True]}],
    "hh": [{"chosen": "\n\nHuman: Q\n\nAssistant: a", "rejected": "\n\nHuman: Q\n\nAssistant: b"}],
    "helpsteer_ratings": [{"prompt": "Q", "response": text, "helpfulness": n, **RATED} for n, text in enumerate("ab")],
    "ranking": [{"prompt": "Q", "completions": ["a", "b"], "ranks": [1, 2]}],
    "webgpt": [{"question": "Q", "answer_0": "a", "answer_1": "b", "score_0": 1, "score_1": 0}],
}


@pytest.fixture
def read_file(tmp_path):
    """Format, records and errors of rows in a file, under settings."""

    def read(rows, **settings):
        path = tmp_path / "rows.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        config = DataConfig(train=str(path), **settings)
        decisions = Decisions(config.decisions)
        split, _ = read_splits(config, decisions)
        errors = {one.code: str(one) for one in split.account.findings(decisions) if one.severity == "error"}
        return split.format, list(split.records), errors

    return read


@pytest.mark.parametrize("name", FORMATS)
def test_system_history_weight_tools_and_pictures_are_read_alike_in_every_format(read_file, name):
    extra = {"system": "S", "history": [["Before?", "Yes."]], "weight": 0.5, "tools": [{"type": "function"}]}
    found, records, errors = read_file([{**row, **extra} for row in FORMATS[name]])
    assert (found.startswith(name[:3]), errors) == (True, {})
    for record in records:
        assert record.prompt == (SYSTEM, user("Before?"), bot("Yes."), user("Q"))
        assert record.weight == 0.5
        assert record.template_args["tools"] == [{"type": "function"}]
    assert records
    assert "not_text" in read_file([{**row, "images": ["a.png"]} for row in FORMATS[name]])[2]


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "helpsteer_ratings"])
def test_a_column_with_a_meaning_that_is_not_read_is_an_error_with_the_key_that_silences_it(read_file, name):
    rows = [{**row, "rejected_reason": "long", "model_name": "m"} for row in FORMATS[name]]
    _, records, errors = read_file(rows)
    assert "data.ignore_columns=[rejected_reason]" in errors["unread_column"]
    _, same, none = read_file(rows, ignore_columns=("rejected_reason",))
    assert (none, same) == ({}, records)


def test_a_column_to_ignore_that_no_row_has_is_a_mistake(read_file):
    with pytest.raises(DataError, match=r"data.ignore_columns names 'promt', .*did you mean 'prompt'\?"):
        read_file(FORMATS["preference"], ignore_columns=("promt",))


def test_a_column_that_comes_late_is_seen_too(read_file):
    rows = [{"prompt": f"Q{n}", "chosen": "a", "rejected": "b"} for n in range(100)]
    rows[90]["image_of_the_prompt"] = "x.png"
    assert "'image_of_the_prompt'" in read_file(rows)[2]["unread_column"]


@pytest.mark.parametrize(
    ("name", "value", "imitates", "meaning"),
    [
        ("prompt_id", "x", False, None),
        ("chosen_model", "x", False, None),
        ("custom_instruction", False, False, None),
        ("is_correct", True, False, None),
        ("is_correct", True, True, "a label"),
        ("is_correct", "yes, it is", True, None),
        ("rewardScore", 0.5, False, "a score"),
        ("photo", "x.jpg", False, "media"),
        ("context", "", False, None),
        ("context", ["x"], False, "a context"),
    ],
)
def test_what_a_name_says(name, value, imitates, meaning):
    assert meaning_of(name, value, imitates) == meaning


REPEATS = {
    "replies": ([user("Q")], [bot("a")], [bot("b")]),
    "both whole": (None, [user("Q"), bot("a")], [user("Q"), bot("b")]),
    "both whole beside a prompt": ([user("Q")], [user("Q"), bot("a")], [user("Q"), bot("b")]),
    "both whole beside a text": ("Q", [user("Q "), bot("a")], [user("Q"), bot("b")]),
    "one whole": (None, [user("Q"), bot("a")], [bot("b")]),
    "the other whole, one text": ("Q", "a", [user("Q"), bot("b")]),
    "a dialogue and a reply": ([user("Q")], [user("Q"), bot("a")], "b"),
    "transcripts beside one": (
        "\n\nHuman: Q\n\nAssistant:", "\n\nHuman: Q\n\nAssistant: a", "\n\nHuman: Q\n\nAssistant: b"
    ),
    "transcripts without their first line": (None, "Human: Q\n\nAssistant: a", "Human: Q\n\nAssistant: b"),
    "JSON text": (json.dumps([user("Q")]), json.dumps([bot("a")]), json.dumps([bot("b")])),
    "Python text": (None, repr([user("Q"), bot("a")]), repr([user("Q"), bot("b")])),
    "as numpy prints it": (None, f"[{user('Q')}\n {bot('a')}]", f"[{user('Q')}\n {bot('b')}]"),
    "with a platform's own keys": (None, [{**user("Q"), "id": 1}, bot("a")], [{**user("Q"), "id": 2}, bot("b")]),
}  # fmt: skip


@pytest.mark.parametrize("name", REPEATS)
def test_the_context_is_read_however_it_is_repeated(read, name):
    prompt, chosen, rejected = REPEATS[name]
    row = {"chosen": chosen, "rejected": rejected} | ({} if prompt is None else {"prompt": prompt})
    record = read(row)[1]
    assert [(turn["role"], turn["content"].strip()) for turn in record.prompt] == [("user", "Q")]
    assert sides(record) == ((bot("a"),), (bot("b"),), 1.0)


LONG = (SYSTEM, user("Q1"), bot("A1"), user("Q2"))


@pytest.mark.parametrize("repeated", [LONG[3:], LONG[1:], LONG, (SYSTEM, LONG[3])])
@pytest.mark.parametrize("column", ["prompt", "messages", "conversations", "trajectory"])
def test_a_long_context_is_read_where_sides_repeat_a_part_of_it(read, repeated, column):
    row = {column: list(LONG), "chosen": [*repeated, bot("a")], "rejected": [*repeated, bot("b")]}
    record = read(row)[1]
    assert (record.prompt, record.chosen, record.rejected) == (LONG, (bot("a"),), (bot("b"),))
    text = read({**row, "chosen": "a", "rejected": "b"})[1]
    assert (text.prompt, text.chosen, text.rejected) == (record.prompt, record.chosen, record.rejected)


def test_a_system_turn_that_only_the_sides_have_is_kept_and_two_that_differ_are_refused(read, refused):
    whole = {"chosen": [SYSTEM, user("Q"), bot("a")], "rejected": [SYSTEM, user("Q"), bot("b")]}
    assert read({"prompt": "Q", **whole})[1].prompt == (SYSTEM, user("Q"))
    assert read({"prompt": [user("Q")], **whole, "system": " S "})[1].prompt == (SYSTEM, user("Q"))
    assert refused({"prompt": [user("Q")], **whole, "system": "other"}) == "bad_value"
    assert refused({"prompt": "Q", "chosen": "a", "rejected": "b", "system": "S", "system_prompt": "T"}) == "bad_value"


def test_messages_beside_a_pair_must_say_what_it_says(read, refused):
    row = {"prompt": "Q", "chosen": [user("Q"), bot("a")], "rejected": [user("Q"), bot("b")]}
    assert read({**row, "messages": row["chosen"]})[1] == read(row)[1]
    assert refused({**row, "messages": [user("Q"), bot("c")]}) == "prompt_mismatch"


@pytest.mark.parametrize("said", ['[{"role": "user", "content": "Q"', "[{'role': 'user' 'content': 'Q'}]"])
def test_turns_spelled_wrongly_are_refused_and_other_brackets_are_text(read, refused, said):
    assert refused({"prompt": said, "chosen": "a", "rejected": "b"}) == "wrong_type"
    assert (
        read({"prompt": "Q", "chosen": '{"from": 3, "to": 4}', "rejected": "[sic]"})[1].chosen == '{"from": 3, "to": 4}'
    )


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"question": "Q", "response_model": "m", "response_A": "a", "response_B": "b", "label": "B>A"}, ("b", "a", 1.0)),
        ({"question": "Q", "response_A": "a", "response_B": "b", "label": "[[A=B]]"}, ("a", "b", 0.5)),
        ({"prompt": "Q", "response_0": "a", "response_1": "b", "label": 1}, ("b", "a", 1.0)),
        ({"query": "Q", "response": "a", "rejected_response": "b"}, ("a", "b", 1.0)),
        ({"orig_instruction": "Q", "orig_response_A": "a", "orig_response_B": "b", "orig_preference": "B",
          "orig_feedback": "x", "instruction": "judge", "output": "B"}, ("b", "a", 1.0)),
    ],
)  # fmt: skip
def test_new_forms_of_pairs(read_file, row, expected):
    _, (record,), errors = read_file([row])
    assert (sides(record), record.prompt, errors) == (expected, "Q", {})


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "Q", "input": "", "output": "a", "kto_tag": False},
        {"instruction": "Q", "completion": "a", "label": "false"},
        {"prompt": "Q", "response": "a", "category": {"x": True}, "is_safe": False},
        {"question": "Q", "answer": "a", "label": 0},
    ],
)
def test_a_label_never_makes_a_bad_answer_a_demonstration(read_file, row):
    found, (record,), errors = read_file([row])
    assert (found, record.desirable, record.prompt, record.completion, errors) == ("rating", False, "Q", "a", {})


def test_a_flag_that_no_format_reads_keeps_answers_from_being_imitated(read_file):
    assert "'is_correct'" in read_file([{"question": "Q", "answer": "a", "is_correct": False}])[2]["unread_column"]


def test_ms_swift_and_capybara_dialogues(read):
    swift = {"messages": [user("Q"), bot("a")], "rejected_messages": [user("Q"), bot("b")]}
    assert sides(read(swift)[1]) == ((bot("a"),), (bot("b"),), 1.0)
    exchanges = [{"input": "Q", "output": "a"}, {"input": "R", "output": "b"}]
    name, record = read({"source": "x", "conversation": exchanges})
    assert (name, record.prompt, record.completion) == ("messages", (user("Q"),), (bot("a"), user("R"), bot("b")))


ZERO_ONE = [{"prompt": f"Q{n}", "response_1": "a", "response_2": "b", "label": n} for n in (0, 1)]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("0/1", [("a", "b", 1.0), ("b", "a", 1.0)]),
        ("1/0", [("b", "a", 1.0), ("a", "b", 1.0)]),
        ("1/2", [("a", "b", 0.5), ("a", "b", 1.0)]),
    ],
)
def test_verdicts_of_0_and_1_ask_for_their_base(read_file, labels, expected):
    assert "set data.labels to 0/1" in read_file(ZERO_ONE)[2]["label_base"]
    _, records, errors = read_file(ZERO_ONE, labels=labels)
    assert ([sides(record) for record in records], errors) == (expected, {})


def test_a_verdict_of_2_anywhere_tells_the_base(read_file):
    rows = [*ZERO_ONE * 40, {**ZERO_ONE[0], "label": 2}]
    assert read_file(rows)[2] == {}
    assert "bad_value" in read_file(rows, labels="0/1")[2]


def test_a_prompt_that_is_missing_or_blank_in_some_rows_is_counted(read_file):
    rows = [{"prompt": "Q", "chosen": "a", "rejected": "b"}, {"chosen": "c", "rejected": "d"},
            {"prompt": " ", "chosen": "e", "rejected": "f"}]  # fmt: skip
    assert read_file(rows)[2].keys() == {"missing_prompt", "empty_prompt"}
    assert len(read_file(rows, on_invalid="drop", on_empty="keep")[1]) == 2
    assert read_file([{**row, "prompt": ""} for row in rows])[2] == {}


def test_two_columns_that_both_say_what_is_asked_are_refused(refused):
    assert refused({"instruction": "Answer.", "question": "2+2?", "answer": "4"}) == "bad_value"
    assert refused({"question": "Who?", "context": "A text.", "answer": "He."}) == "bad_value"


@pytest.mark.parametrize(
    "name",
    ["sys", "persona", "passage", "documents", "background", "article", "human_prefers", "is_flipped", "swapped"],
)
def test_more_names_that_say_something_are_no_line_in_a_list(read_file, name):
    row = {"prompt": "Q", "chosen": "a", "rejected": "b", name: True if name in ("is_flipped", "swapped") else "x"}
    _, _, errors = read_file([row])
    assert f"does not read '{name}'" in errors["unread_column"]


def test_history_that_is_no_history_is_refused(read):
    with pytest.raises(RowError, match="history must be turns or pairs of question and answer, got 'earlier"):
        read({"prompt": "Q", "chosen": "a", "rejected": "b", "history": "earlier talk"})


def test_an_object_that_holds_one_text_is_that_text(read):
    row = {"prompt": {"text": "Q"}, "chosen": {"response": "a", "model": "m"}, "rejected": {"content": "b"}}
    _, record = read(row)
    assert (record.prompt, record.chosen, record.rejected) == ("Q", "a", "b")
    with pytest.raises(RowError, match="chosen must be text or turns, got an object with text, content"):
        read({**row, "chosen": {"text": "a", "content": "b"}})


def test_calls_of_the_first_form_and_refusals_need_no_content(read):
    call = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    refusal = {"role": "assistant", "content": None, "refusal": "I cannot."}
    _, record = read({"prompt": [user("Q")], "chosen": [call], "rejected": [refusal]})
    assert record.chosen[0]["function_call"]["name"] == "f"
    assert record.rejected == (bot("I cannot."),)


def test_several_bad_replies_to_one_good_one(read):
    name, record = read({"prompt": "Q", "chosen": "a", "rejected": ["b", "c"]})
    assert (name, record.completions, record.ranks) == ("best_of", ("a", "b", "c"), (1, 2, 2))


def test_a_prompt_that_a_completion_would_have_to_go_on_with(read):
    row = {"prompt": [user("Q"), {**bot("Sure,"), "prefix": True}], "chosen": [bot(" a")], "rejected": [bot(" b")]}
    with pytest.raises(RowError, match="the prompt ends with the beginning of a reply"):
        read(row)
