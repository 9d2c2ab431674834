from __future__ import annotations

import json

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from exptilt.data.groups import scores_of
from exptilt.data.prepared import prepare, prepare_records
from exptilt.data.problems import CATALOGUE
from exptilt.data.records import Preference, Ranking
from exptilt.data.splits import read_records
from exptilt.errors import DataError
from exptilt.labels import Preferred
from exptilt.settings.data_settings import DataConfig


def write(path, rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return str(path)


def pair(n, **change):
    return {"prompt": f"question {n}", "chosen": f" good {n}", "rejected": f" bad {n}", **change}


@pytest.fixture
def messy(tmp_path):
    rows = [
        pair(1),
        '{"prompt": "a", "chosen": }',
        {"prompt": "b", "chosen": "c"},
        pair(4, chosen="  "),
        pair(5, rejected="good 5 "),
        pair(6, prompt="the cat " * 60),
        pair(7, chosen=" good" * 60),
        pair(1),
        pair(9, p_chosen=0.5),
        pair(10, p_chosen=2),
        pair(11),
        pair(11, chosen=" bad 11", rejected=" good 11"),
    ]
    return write(tmp_path / "pairs.jsonl", rows)


def test_every_fault_is_named_with_its_row_and_the_setting_that_decides(messy, base_tokenizer):
    with pytest.raises(DataError) as caught:
        prepare(DataConfig(train=messy), base_tokenizer, "pair", 40)
    lines = {line.split(";")[0]: line for line in str(caught.value).splitlines()}
    assert set(lines) == {
        "pairs.jsonl:2: invalid JSON: Expecting value at column 27",
        "pairs.jsonl:3: column 'rejected' is missing",
        "pairs.jsonl:4: chosen is empty or only white space",
        "pairs.jsonl:5: chosen and rejected are identical",
        "pairs.jsonl:6: the prompt alone has 121 tokens and max_tokens is 40",
        "pairs.jsonl:7: 5 tokens of prompt and 121 of completion, and max_tokens is 40",
        "pairs.jsonl:8: repeats pairs.jsonl:1",
        "pairs.jsonl:9: neither side is preferred (p_chosen is 0.5)",
        "pairs.jsonl:10: p_chosen must be in [0, 1], got 2",
        "pairs.jsonl:11: has the opposite label of pairs.jsonl:12 (2 rows: pairs.jsonl:11, 12)",
    }
    for policy in ("invalid", "empty", "identical", "too_long", "duplicate", "tie", "conflict"):
        assert f"data.on_{policy} to" in str(caught.value)


DROP_ALL = dict.fromkeys(
    ("on_invalid", "on_empty", "on_identical", "on_too_long", "on_duplicate", "on_tie", "on_conflict"), "drop"
)


def test_with_policies_every_row_is_accounted_for(messy, base_tokenizer):
    prepared = prepare(DataConfig(train=messy, **DROP_ALL), base_tokenizer, "pair", 40)
    assert [group.id for group in prepared.train] == ["pairs.jsonl:1"]
    train = prepared.report.train
    assert train.rows == 12
    assert train.rows_left_out == {
        "invalid_json": 1, "missing_column": 1, "bad_value": 1, "duplicate": 1, "conflict": 2,
    }  # fmt: skip
    assert train.examples_left_out == {"empty": 1, "identical": 1, "tie": 1, "prompt_too_long": 1, "too_long": 1}
    assert train.rows - sum(train.rows_left_out.values()) == train.examples
    assert train.examples - sum(train.examples_left_out.values()) == train.kept == len(prepared.train)
    assert prepared.report.errors == ()
    assert json.loads(json.dumps(prepared.report.as_dict()))["train"]["kept"] == 1


def test_looking_does_not_raise_and_needs_no_tokenizer(messy):
    prepared = prepare(DataConfig(train=messy), None, "pair", strict=False)
    assert len(prepared.train) == 0
    assert {finding.code for finding in prepared.report.errors} == {
        "invalid_json", "missing_column", "bad_value", "empty", "identical", "duplicate", "tie", "conflict",
    }  # fmt: skip
    assert prepared.report.train.kept == 3


def test_nothing_left_is_an_error_with_the_reasons(tmp_path, base_tokenizer):
    path = write(tmp_path / "a.jsonl", [pair(1, chosen=""), pair(2, chosen="")])
    with pytest.raises(DataError, match="none of its 2 rows is left to use: 2 empty"):
        prepare(DataConfig(train=path, on_empty="drop"), base_tokenizer, "pair")


def test_only_broken_rows(tmp_path, base_tokenizer):
    path = write(tmp_path / "a.jsonl", ["{", "["])
    with pytest.raises(DataError, match="none of its 2 rows is left to use: 2 invalid_json"):
        prepare(DataConfig(train=path, on_invalid="drop"), base_tokenizer, "pair")


def test_groups_carry_what_the_row_says(tmp_path, base_tokenizer):
    path = write(tmp_path / "a.jsonl", [pair(1, p_chosen=0.75, margin=2, weight=0.5, id="abc")])
    (group,) = prepare(DataConfig(train=path), base_tokenizer, "pair").train
    assert (group.id, group.label, group.weight) == ("a.jsonl:1#abc", Preferred(0.75, 2.0), 0.5)
    said = [base_tokenizer.decode([*group.prompt, *part.ids]) for part in group.completions]
    assert said == ["question 1 good 1<eos>", "question 1 bad 1<eos>"]


def test_a_column_of_sections_goes_with_its_rows(tmp_path, base_tokenizer):
    rows = [
        {"prompt": f"Q{at}?", "chosen": " yes", "rejected": " no", "subset": subset}
        for at, subset in enumerate(("math-prm", 7, "", None))
    ]
    path = write(tmp_path / "rows.jsonl", rows)
    found = prepare(DataConfig(train=path, columns={"section": "subset"}), base_tokenizer, "pair")
    assert [group.section for group in found.train] == ["math-prm", "7", None, None]
    unread = prepare(DataConfig(train=path), base_tokenizer, "pair")
    assert {group.section for group in unread.train} == {None}
    assert unread.report.train.columns_not_read == ("subset",)


def test_one_file_serves_every_kind(tmp_path, base_tokenizer):
    config = DataConfig(train=write(tmp_path / "a.jsonl", [pair(1), pair(2)]))
    chosen = prepare(config, base_tokenizer, "completion").train
    assert [base_tokenizer.decode(group.completions[0].ids) for group in chosen] == [" good 1<eos>", " good 2<eos>"]
    unpaired = prepare(config, base_tokenizer, "unpaired")
    assert [group.label.desirable for group in unpaired.train] == [True, False, True, False]
    assert (unpaired.report.train.rows, unpaired.report.train.examples) == (2, 4)
    assert [group.label.ranks for group in prepare(config, base_tokenizer, "list").train] == [(1, 2), (1, 2)]


def test_a_rejected_side_that_is_never_trained_on_is_no_fault(tmp_path, base_tokenizer):
    path = write(tmp_path / "a.jsonl", [pair(1, rejected="")])
    assert len(prepare(DataConfig(train=path), base_tokenizer, "completion").train) == 1


def test_rankings_give_pairs_and_their_ties_obey_the_policy(tmp_path, base_tokenizer):
    path = write(tmp_path / "a.jsonl", [{"prompt": "q", "completions": [" a", " b", " c"], "ranks": [1, 2, 2]}])
    with pytest.raises(DataError, match=r"a.jsonl:1 2=3: neither side is preferred"):
        prepare(DataConfig(train=path), base_tokenizer, "pair")
    kept = prepare(DataConfig(train=path, on_tie="keep"), base_tokenizer, "pair").train
    assert [group.label.p_chosen for group in kept] == [1.0, 1.0, 0.5]
    best_worst = prepare(DataConfig(train=path, pairs="best_worst"), base_tokenizer, "pair").train
    assert [group.id for group in best_worst] == ["a.jsonl:1 1>3"]


def test_held_out_prompts_are_in_one_part_only(tmp_path, base_tokenizer):
    rows = [
        pair(n, prompt=f"{'Same ' if k else 'same  '}question {n}", chosen=f" good {n} {k}")
        for n in range(60)
        for k in (0, 1)
    ]
    config = DataConfig(train=write(tmp_path / "a.jsonl", rows), test_fraction=0.2, test_limit=8)
    prepared = prepare(config, base_tokenizer, "pair")
    report = prepared.report
    numbers = [{int(group.id.split(":")[1]) - 1 for group in part} for part in (prepared.train, prepared.test)]
    assert not {number // 2 for number in numbers[0]} & {number // 2 for number in numbers[1]}
    assert report.test is not None
    assert report.train.rows + report.test.rows == 120
    assert report.test.kept == 8
    assert report.test.rows_left_out["over_limit"] == report.test.rows - 8


def test_a_leak_between_two_files(tmp_path, base_tokenizer):
    train = write(tmp_path / "train.jsonl", [pair(1), pair(2)])
    test = write(tmp_path / "test.jsonl", [pair(2, chosen=" other")])
    with pytest.raises(DataError, match=r"train.jsonl:2: has the prompt of test.jsonl:1, which is in the test set"):
        prepare(DataConfig(train=train, test=test), base_tokenizer, "pair")
    prepared = prepare(DataConfig(train=train, test=test, on_leak="drop"), base_tokenizer, "pair")
    assert ([g.id for g in prepared.train], [g.id for g in prepared.test]) == (["train.jsonl:1"], ["test.jsonl:1"])
    with pytest.raises(DataError, match="train and test are the same rows"):
        prepare(DataConfig(train=train, test=train), base_tokenizer, "pair")


def test_columns_can_be_named(tmp_path):
    rows = [{"question": "q", "good": "a", "bad": "b"}]
    config = DataConfig(
        train=write(tmp_path / "a.jsonl", rows), columns={"prompt": "question", "chosen": "good", "rejected": "bad"}
    )
    assert list(read_records(config).train) == [Preference(id="a.jsonl:1", prompt="q", chosen="a", rejected="b")]


def test_records_are_read_with_every_text_check(messy):
    with pytest.raises(DataError, match=r"pairs.jsonl:4: chosen is empty"):
        read_records(DataConfig(train=messy))
    records = read_records(DataConfig(train=messy, **DROP_ALL), "completion")
    assert [record.completion for record in records.train][:2] == [" good 1", " good 5"]


def test_records_made_in_python(base_tokenizer):
    records = [Ranking(id="x", prompt="q", completions=(" a", " b"), ranks=(2, 1), scores=(0.0, 1.5))]
    prepared = prepare_records(records, base_tokenizer, "list", test=records[:0])
    (group,) = prepared.train
    assert (group.label.ranks, scores_of(group), list(prepared.test), prepared.report.test) == (
        (2, 1),
        (0.0, 1.5),
        [],
        None,
    )


def test_few_examples_and_a_length_bias_are_worth_a_word(tmp_path, base_tokenizer):
    few = prepare(DataConfig(train=write(tmp_path / "a.jsonl", [pair(1)])), base_tokenizer, "pair").report
    assert [finding.message for finding in few.findings] == ["only 1 example to train on"]
    rows = [pair(n, rejected=f" bad {n}" if n % 4 else f" far too long {n}") for n in range(100)]
    report = prepare(DataConfig(train=write(tmp_path / "b.jsonl", rows)), base_tokenizer, "pair").report
    assert report.train.longer_chosen == 0.75
    assert [finding.code for finding in report.findings] == ["length_bias", "suggestion"]


def test_a_broken_template_obeys_the_policy_for_invalid_rows(tmp_path, make_tokenizer):
    tokenizer = make_tokenizer(chat="{{ raise_exception('no') }}")
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    path = write(tmp_path / "a.jsonl", [{"messages": turns}])
    with pytest.raises(DataError, match=r"a.jsonl:1: the chat template refuses the turns \(user\): no"):
        prepare(DataConfig(train=path), tokenizer, "completion")


def test_real_rows_of_every_format_are_kept_or_counted(real_data, chat_tokenizer):
    files = {
        "hh_rlhf/harmless-base.test.jsonl.gz": ("hh", "pair", 2312, {"empty": 4}),
        "pref_small/dpo_en_demo.sharegpt.jsonl.gz": ("sharegpt", "pair", 300, {"duplicate": 5}),
        "kto/kto_en_demo.jsonl.gz": ("rated_messages", "unpaired", 300, {}),
        "kto/kto_mix.test.jsonl.gz": ("rating", "unpaired", 1092, {"conflict": 2}),
    }
    for name, (form, kind, rows, left_out) in files.items():
        config = DataConfig(train=str(real_data / name), **DROP_ALL)
        train = prepare(config, None, kind).report.train
        assert (train.format, train.rows) == (form, rows)
        assert {**train.rows_left_out, **train.examples_left_out} == left_out
        assert train.kept == rows - sum(left_out.values())
    dialogues = DataConfig(train=str(real_data / "sft/sgd_dialogues.test.jsonl.gz"), limit=20)
    for record, group in zip(
        read_records(dialogues).train, prepare(dialogues, chat_tokenizer, "completion").train, strict=True
    ):
        (completion,) = group.completions
        said = [turn["content"] for turn in record.completion if turn["role"] == "assistant"]
        assert chat_tokenizer.decode(completion.ids[completion.counted]) == "".join(
            f"{text}<|im_end|>" for text in said
        )


def test_marks_of_a_template_that_is_not_the_tokenizers_own_are_named(tmp_path, base_tokenizer, make_tokenizer):
    rows = [pair(1), pair(2, prompt="[INST] the cat [/INST]"), pair(3, prompt="<|im_start|>user\nthe cat<|im_end|>")]
    config = DataConfig(train=write(tmp_path / "a.jsonl", rows))

    def found(tokenizer):
        report = prepare(config, tokenizer, "pair").report
        return {one.code: (one.count, one.message) for one in report.findings if one.code.endswith("_in_text")}

    assert found(None) == {"template_in_text": (2, "a.jsonl:2: the text holds '[INST]', the mark of a chat template")}
    assert {code: count for code, (count, _) in found(base_tokenizer).items()} == {
        "template_in_text": 1,
        "special_token_in_text": 1,
    }
    own = make_tokenizer(chat="{% for m in messages %}[INST] {{ m['content'] }} [/INST]<eos>{% endfor %}")
    assert set(found(own)) == {"special_token_in_text"}


def test_pairs_made_of_one_row_are_no_duplicate_prompts_of_each_other(tmp_path):
    labels = [{"i": 0, "j": 1, "label": "i"}, {"i": 0, "j": 2, "label": "j"}, {"i": 1, "j": 2, "label": "j"}]
    row = {"question": "q", "answers": ["a", "b", "c"], "pair_labels": labels}
    path = write(tmp_path / "a.jsonl", [row, {**row, "answers": ["d", "e", "f"]}])
    report = prepare(DataConfig(train=path), None, "pair").report
    assert report.train.kept == 6
    (found,) = [one for one in report.findings if one.code == "duplicate_prompt"]
    assert (found.count, found.examples) == (1, ("a.jsonl:2 1>2",))


def test_a_format_that_reads_more_is_named(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"text": "good film", "label": 1}])
    with pytest.raises(
        DataError, match=r"text does not read 'label' .*; data.format=rated_text reads label; .*=\[label\]"
    ):
        prepare(DataConfig(train=path), None, "completion")
    assert prepare(DataConfig(train=path, ignore_columns=("label",)), None, "completion").report.train.kept == 1


CALLS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}"
    "{{ c.function | tojson }}{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Writes calls, but no tools."""


def called(name, arguments, question):
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    return {"messages": turns}


def counted(tokenizer, group):
    return [tokenizer.decode(completion.ids[completion.counted]) for completion in group.completions]


@pytest.mark.parametrize("kind", ["parquet", "saved"])
def test_nulls_that_arrow_added_are_not_trained_on(tmp_path, make_tokenizer, kind):
    rows = [called("weather", {"city": "Paris"}, "Q"), called("add", {"x": 1}, "R")]
    table = pyarrow.Table.from_pylist(rows)
    assert table.to_pylist()[1]["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"city": None, "x": 1}
    if kind == "parquet":
        pyarrow.parquet.write_table(table, tmp_path / "data.parquet")
    else:
        datasets.Dataset(table).save_to_disk(str(tmp_path / "data.parquet"))
    tokenizer = make_tokenizer(bos=True, chat=CALLS)
    done = prepare(DataConfig(train=str(tmp_path / "data.parquet")), tokenizer, "completion")
    assert [counted(tokenizer, group) for group in done.train] == [
        ['{"name": "weather", "arguments": {"city": "Paris"}}<|im_end|>'],
        ['{"name": "add", "arguments": {"x": 1}}<|im_end|>'],
    ]


def test_arguments_as_json_text_and_as_values_are_the_same_row(tmp_path, make_tokenizer):
    rows = [called("weather", '{"city": "Paris"}', "Q"), called("weather", {"city": "Paris"}, "Q")]
    config = DataConfig(train=write(tmp_path / "a.jsonl", rows), on_duplicate="drop")
    tokenizer = make_tokenizer(bos=True, chat=CALLS)
    done = prepare(config, tokenizer, "completion")
    assert [counted(tokenizer, group) for group in done.train] == [
        ['{"name": "weather", "arguments": {"city": "Paris"}}<|im_end|>']
    ]
    assert done.report.train.rows_left_out == {"duplicate": 1}


def test_tools_that_a_template_does_not_write_are_reported(tmp_path, make_tokenizer):
    row = called("weather", {"city": "Paris"}, "Q") | {"tools": [{"type": "function", "function": {"name": "weather"}}]}
    config = DataConfig(train=write(tmp_path / "a.jsonl", [row]))
    with pytest.raises(DataError, match=r"a\.jsonl:1: the rendered row lacks the tool 'weather'"):
        prepare(config, make_tokenizer(bos=True, chat=CALLS), "completion")


def test_pairs_that_differ_in_reasoning_alone_are_trained_on(tmp_path, make_tokenizer):
    def side(thought):
        return [{"role": "assistant", "content": "4", "reasoning_content": thought}]

    row = {"prompt": [{"role": "user", "content": "2+2?"}], "chosen": side("two and two"), "rejected": side("a guess")}
    block = "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    thinks = CALLS.replace("{{ m.content }}", block + "{{ m.content }}")
    tokenizer = make_tokenizer(bos=True, chat=thinks)
    (group,) = prepare(DataConfig(train=write(tmp_path / "a.jsonl", [row])), tokenizer, "pair").train
    assert counted(tokenizer, group) == ["<think>two and two</think>4<|im_end|>", "<think>a guess</think>4<|im_end|>"]
    with pytest.raises(DataError, match="lacks the reasoning 'two and two', and 1 more"):
        prepare(DataConfig(train=write(tmp_path / "a.jsonl", [row])), make_tokenizer(bos=True, chat=CALLS), "pair")


def test_a_run_names_its_template_its_arguments_and_where_a_system_turn_goes(tmp_path, chat_tokenizer):
    turns = [("system", "S"), ("user", "Q"), ("assistant", "A"), ("user", "R"), ("assistant", "B")]
    row = {"messages": [{"role": role, "content": text} for role, text in turns]}
    path = write(tmp_path / "a.jsonl", [row])
    settings = {"chat_template": "qwen3", "template_args": {"enable_thinking": False}}
    (group,) = prepare(DataConfig(train=path, **settings), chat_tokenizer, "completion").train
    assert chat_tokenizer.decode(group.prompt).endswith(
        "user\nQ<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    assert counted(chat_tokenizer, group) == ["A<|im_end|>B<|im_end|>"]
    refuses = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + chat_tokenizer.chat_template
    )
    (tmp_path / "mine.jinja").write_text(refuses)
    with pytest.raises(DataError, match=r"refuses the turns \(system, user\): no; data\.fold_system=true"):
        prepare(DataConfig(train=path, chat_template=str(tmp_path / "mine.jinja")), chat_tokenizer, "completion")
    mine = DataConfig(train=path, chat_template=str(tmp_path / "mine.jinja"), fold_system=True)
    (group,) = prepare(mine, chat_tokenizer, "completion").train
    assert chat_tokenizer.decode(group.prompt) == "<|im_start|>user\nS\n\nQ<|im_end|>\n<|im_start|>assistant\n"


def test_a_misspelt_argument_for_the_template_stops_the_run(tmp_path, chat_tokenizer):
    config = DataConfig(train=write(tmp_path / "a.jsonl", [pair(1)]), template_args={"enable_thinking": False})
    with pytest.raises(DataError, match=r"data\.template_args\.enable_thinking: the chat template reads nothing"):
        prepare(config, chat_tokenizer, "pair")


def test_no_advice_is_to_go_without_the_template():
    assert not [code for code, problem in CATALOGUE.items() if "template=plain" in problem.message + problem.fix]


def test_a_row_whose_turns_cannot_be_rendered_is_a_row_and_not_the_end(tmp_path, make_tokenizer):
    good = called("weather", {"city": "Paris"}, "Q")
    wrong_call, wrong_switch, wrong_tools = (called("weather", {"city": "Paris"}, str(at)) for at in range(3))
    wrong_call["messages"][1]["tool_calls"] = ["weather"]
    wrong_switch["messages"][1]["weight"] = 0.5
    wrong_tools["tools"] = [{"name": "weather", "parameters": "none"}]
    config = DataConfig(
        train=write(tmp_path / "a.jsonl", [good, wrong_call, wrong_switch, wrong_tools]), on_invalid="drop"
    )
    tokenizer = make_tokenizer(bos=True, chat="{% for t in tools or [] %}{{ t | tojson }}{% endfor %}" + CALLS)
    done = prepare(config, tokenizer, "completion")
    assert [group.id for group in done.train] == ["a.jsonl:1", "a.jsonl:4"]
    assert done.report.train.examples_left_out == {"wrong_type": 1, "bad_value": 1}
