from __future__ import annotations

import json

import pytest

from exptilt.data.encode.tokens import Encoder, encode_prompts
from exptilt.data.formats.row_context import RowContext
from exptilt.data.memory.spill import Shelf
from exptilt.data.problems import RowError
from exptilt.data.read.source_records import read_part
from exptilt.data.records import Preference
from exptilt.data.splits import read_records
from exptilt.data.stage_account import Decisions
from exptilt.errors import DataError
from exptilt.settings.data_settings import DataConfig
from exptilt.settings.source_settings import SourceConfig

DECISIONS = Decisions(DataConfig(train="x").decisions)
TOOL = {"type": "function", "function": {"name": "f"}}


def read(path, rows, **settings):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    records = Shelf()
    part = read_part(SourceConfig(path=str(path), **settings), records, DECISIONS)
    assert part.num_records == len(records)
    return part, list(records), {code: noted.count for code, noted in part.account.noted.items()}


def test_rows_of_one_prompt_are_joined_and_each_is_accounted_for(tmp_path):
    scores = dict.fromkeys(("correctness", "coherence", "complexity", "verbosity"), 2)
    rows = [
        {"prompt": prompt, "response": said, "helpfulness": n, **scores}
        for n, (prompt, said) in enumerate([("Q", "a"), ("R", "b"), ("Q", "c"), ("Q", "d"), ("S", None)])
    ]
    part, records, found = read(tmp_path / "a.jsonl", [*rows, {**rows[0], "prompt": None}])
    (ranking,) = records
    assert (ranking.id, ranking.completions, ranking.ranks) == ("a.jsonl:1", ("a", "c", "d"), (3, 2, 1))
    assert part.account.left_out == {"joined": 2, "alone": 1, "missing_column": 2}
    assert part.rows == 6 == len(records) + sum(part.account.left_out.values())
    assert found == {"joined": 2, "alone": 1, "missing_column": 2}


def test_tools_and_arguments_of_a_row_reach_its_template(make_tokenizer, tmp_path):
    template = (
        "{% if tools %}{{ tools[0]['function']['name'] }}|{% endif %}{% if mood %}{{ mood }}|{% endif %}"
        "{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}"
    )
    row = {"prompt": [{"role": "user", "content": "Q"}], "chosen": [{"role": "assistant", "content": "a"}],
           "rejected": [{"role": "assistant", "content": "b"}]}  # fmt: skip
    given = {**row, "tools": json.dumps([TOOL]), "chat_template_kwargs": {"mood": "calm", "other": None}}
    _, records, _ = read(tmp_path / "a.jsonl", [row, given])
    plain, special = records
    assert (plain.template_args, special.template_args) == ({}, {"tools": [TOOL], "mood": "calm"})
    tokenizer = make_tokenizer(chat=template)
    encoder = Encoder(tokenizer, decisions=Decisions({}))
    prompts = [tokenizer.decode(encoded.prompt) for encoded in encoder.encode(records)[0]]
    assert prompts == ["Q<|im_end|>", "f|calm|Q<|im_end|>"]
    args = [record.template_args for record in records]
    sampled = encode_prompts(tokenizer, [record.prompt for record in records], template_args=args)
    assert [tokenizer.decode(ids) for ids in sampled] == prompts


def test_tools_need_a_template(base_tokenizer):
    turns = ({"role": "user", "content": "Q"},)
    reply = ({"role": "assistant", "content": "a"},)
    record = Preference(id="f:1", prompt=turns, chosen=reply, rejected=reply, template_args={"tools": [TOOL]})
    (made,), account = Encoder(base_tokenizer, decisions=Decisions({})).encode([record])
    assert (made, account.left_out) == (None, {"template_refused": 1})


@pytest.mark.parametrize("value", ["[", 7, [3]])
def test_tools_that_are_none(value):
    with pytest.raises(RowError) as caught:
        RowContext.of({"tools": value})
    assert caught.value.code == "wrong_type"


def test_empty_tools_say_nothing():
    assert RowContext.of({"tools": "", "chat_template_kwargs": None}).template_args == {}
    assert RowContext.of({"tools": []}).template_args == {}


def test_the_first_row_that_can_be_read_tells_the_format(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(["{"] * 100 + [json.dumps({"prompt": "Q", "chosen": "a", "rejected": "b"})]))
    records = Shelf()
    part = read_part(SourceConfig(path=str(path)), records, DECISIONS)
    assert (part.format, part.rows, len(records), part.account.left_out) == (
        "preference",
        101,
        1,
        {"invalid_json": 100},
    )


def test_a_line_of_fifty_megabytes_is_read_like_any_other(tmp_path):
    rows = [
        {"prompt": "Q", "chosen": "a" * 50_000_000, "rejected": "b"},
        {"prompt": "R", "chosen": "c", "rejected": "d"},
    ]
    _, records, _ = read(tmp_path / "a.jsonl", rows)
    assert [len(record.chosen) for record in records] == [50_000_000, 1]


PAIR = {"prompt": "q", "chosen": "a", "rejected": "b", "good_reply": "g"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"columns": {"chosen": "godo_reply"}},
            "data.columns names 'godo_reply', and no row has such a column; did you mean 'good_reply'",
        ),
        ({"columns": {"chosen": "x"}}, "no row has such a column; it has chosen, good_reply, prompt, rejected"),
        (
            {"columns": {"choosen": "good_reply"}},
            "data.columns.choosen: no format reads a column of that name; did you mean 'chosen'",
        ),
        ({"where": {"promt": "q"}}, "data.where names 'promt', and no row has such a column; did you mean 'prompt'"),
        (
            {"columns": {"chosen": "goodreply", "rejected": "bad"}, "where": {"prompt": "q"}},
            "data.columns names 'goodreply'",
        ),
    ],
)
def test_a_setting_that_names_no_column_is_refused_though_the_row_would_do_without(tmp_path, settings, message):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(PAIR))
    with pytest.raises(DataError) as caught:
        read_records(DataConfig(train=str(path), **settings))
    assert message in str(caught.value)
    assert read_records(DataConfig(train=str(path), columns={"chosen": "good_reply"})).train[0].chosen == "g"


def test_a_column_that_only_a_late_row_has_is_a_column(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [{"prompt": f"q{n}", "chosen": "a", "rejected": "b"} for n in range(100)]
    path.write_text("\n".join(json.dumps(row) for row in [*rows, {**PAIR, "gap": 3}]))
    records = read_records(DataConfig(train=str(path), columns={"margin": "gap"})).train
    assert [record.margin for record in records[-2:]] == [None, 3.0]


@pytest.mark.parametrize("value", ["x.png", ["x.png"], {"bytes": "iVBOR", "path": None}])
@pytest.mark.parametrize("column", ["image", "images", "videos", "audio"])
def test_a_row_that_comes_with_a_picture_is_no_text(tmp_path, column, value):
    rows = [{"prompt": f"Q{n}", "chosen": "a", "rejected": "b", column: None} for n in range(4)]
    rows[1][column], rows[2][column] = value, []
    part, records, found = read(tmp_path / "a.jsonl", [*rows, {**rows[0], column: {"bytes": None, "path": None}}])
    assert [record.id for record in records] == ["a.jsonl:1", "a.jsonl:3", "a.jsonl:4", "a.jsonl:5"]
    assert (part.account.left_out, found) == ({"not_text": 1}, {"not_text": 1})


def test_a_column_that_changes_its_name_within_a_file_is_named(tmp_path):
    row = {"prompt": "Q", "chosen": "a", "rejected": "b"}
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row) + '\n{"prompt": "Q", "choosen": "a", "rejected": "b"}')
    with pytest.raises(DataError, match=r"a.jsonl:2: column 'chosen' is missing; the row has 'choosen'; repair"):
        read_records(DataConfig(train=str(path)))
