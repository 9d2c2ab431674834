"""What a loader of preferences can get wrong, each item once and from end to end."""

from __future__ import annotations

import json

import pytest
from invented_rows import bot, user

from exptilt.data.prepared import prepare
from exptilt.data.splits import read_records
from exptilt.errors import DataError
from exptilt.settings.data_settings import DataConfig
from exptilt.settings.source_settings import SourceConfig

DROP = {f"on_{name}": "drop" for name in ("invalid", "empty", "identical", "tie", "duplicate", "conflict", "too_long")}


def write(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def looked_at(tmp_path, rows, tokenizer=None, kind="pair", max_tokens=None, **settings):
    """What `doctor` finds in rows: what is left out and why, all findings, and what is kept."""
    config = DataConfig(train=write(tmp_path / "a.jsonl", rows), **settings)
    prepared = prepare(config, tokenizer, kind, max_tokens, strict=False)
    train = prepared.report.train
    found = {finding.code: finding.count for finding in prepared.report.findings}
    return {**train.rows_left_out, **train.examples_left_out}, found, prepared


def pair(n=0, **change):
    return {"prompt": f"question {n}", "chosen": f" good {n}", "rejected": f" bad {n}", **change}


def test_1_ties_are_kept_as_one_half_or_dropped_and_no_comparison_decides(tmp_path, base_tokenizer):
    rows = [pair(1, score_chosen=4, score_rejected=4), pair(2, p_chosen=0.5), pair(3)]
    assert looked_at(tmp_path, rows)[0] == {"tie": 2}
    kept = looked_at(tmp_path, rows, base_tokenizer, on_tie="keep")[2]
    assert [group.label.p_chosen for group in kept.train] == [0.5, 0.5, 1.0]


def test_2_pairs_identical_but_for_space_are_counted(tmp_path):
    rows = [
        pair(1, chosen=" same", rejected="same \n"),
        pair(2, chosen="A rather long one.", rejected="a rather long one"),
    ]
    left_out, found, _ = looked_at(tmp_path, rows)
    assert left_out == {"identical": 1}
    assert found["nearly_identical"] == 1


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ([user("Q"), bot("Yes")], [user("Q"), bot("Yes, but")], (user("Q"),)),
        ([user("Q"), bot("A"), user("R"), bot("B")], [user("Q"), bot("A")], (user("Q"),)),
        ([user("Q"), bot("A"), user("R"), bot("B")], [user("Q"), bot("A"), user("S"), bot("B")], (user("Q"),)),
    ],
)
def test_3_the_prompt_is_made_of_whole_shared_turns(tmp_path, chosen, rejected, prompt):
    config = DataConfig(train=write(tmp_path / "a.jsonl", [{"chosen": chosen, "rejected": rejected}]))
    (record,) = read_records(config).train
    assert record.prompt == prompt
    assert (*record.prompt, *record.chosen) == tuple(chosen)
    assert (*record.prompt, *record.rejected) == tuple(rejected)


def test_3_sides_that_never_or_at_once_diverge(tmp_path):
    same = [user("Q"), bot("A")]
    rows = [{"chosen": same, "rejected": same}, {"chosen": [user("Q"), bot("A")], "rejected": [user("R"), bot("A")]}]
    assert looked_at(tmp_path, rows)[0] == {"identical": 1, "no_shared_prompt": 1}


def test_4_different_contexts_are_reported_and_not_guessed(tmp_path):
    system = {"role": "system", "content": "S"}
    rows = [
        {"chosen": [system, user("Q"), bot("a")], "rejected": [user("Q"), bot("b")]},
        {"chosen": [system, user("Q"), bot("a")], "rejected": [{**system, "content": "T"}, user("Q"), bot("b")]},
    ]
    left_out, _, prepared = looked_at(tmp_path, rows)
    assert left_out == {"no_shared_prompt": 2}
    (finding,) = prepared.report.errors
    assert finding.examples == ("a.jsonl:1", "a.jsonl:2")


def test_5_user_turns_of_a_long_completion_do_not_count(tmp_path, chat_tokenizer):
    tail = [bot("a1"), user("more?"), {"role": "tool", "content": "42"}, bot("a2")]
    rows = [{"prompt": [user("Q")], "chosen": tail, "rejected": [bot("b")]}]
    chosen = looked_at(tmp_path, rows, chat_tokenizer)[2].train[0].completions[0]
    assert chat_tokenizer.decode(chosen.ids[chosen.counted]) == "a1<|im_end|>a2<|im_end|>"
    assert "more?" in chat_tokenizer.decode(chosen.ids)
    assert "42" in chat_tokenizer.decode(chosen.ids[~chosen.counted])


def test_6_empty_null_and_not_text(tmp_path, base_tokenizer):
    rows = [pair(1, chosen=""), pair(2, chosen="\u00a0\n"), pair(3, rejected=None), pair(4, rejected=7), pair(5)]
    assert looked_at(tmp_path, rows)[0] == {"empty": 2, "missing_column": 1, "wrong_type": 1}
    kept = looked_at(tmp_path, rows[:1], base_tokenizer, on_empty="keep")[2]
    empty = kept.train[0].completions[0]
    assert (base_tokenizer.decode(empty.ids), empty.length) == ("<eos>", 1)


def test_7_prompt_and_completion_are_tokenised_together_and_the_boundary_is_counted(tmp_path, base_tokenizer):
    rows = [pair(1, prompt="the ", chosen="question", rejected="cat"), pair(2)]
    _, found, prepared = looked_at(tmp_path, rows, base_tokenizer)
    assert found["boundary"] == 1
    first, second = prepared.train
    assert first.prompt.tolist() == base_tokenizer("the ")["input_ids"]
    whole = base_tokenizer("question 2 good 2")["input_ids"]
    assert [*second.prompt, *second.completions[0].ids][:-1] == whole


def test_8_a_cut_that_leaves_nothing_or_makes_both_sides_equal(tmp_path, base_tokenizer):
    rows = [
        pair(1, chosen=" good" * 30 + " end", rejected=" good" * 30 + " other"),
        pair(2, prompt="the cat " * 60),
        pair(3),
    ]
    left_out, found, prepared = looked_at(
        tmp_path, rows, base_tokenizer, max_tokens=30, on_too_long="trim_completion_end", on_identical="drop"
    )
    assert left_out == {"identical": 1, "does_not_fit": 1}
    assert (found["too_long"], found["prompt_too_long"], len(prepared.train)) == (1, 1, 1)
    long = [pair(1, chosen=" good" * 60)]
    cut = looked_at(tmp_path, long, base_tokenizer, max_tokens=30, on_too_long="trim_completion_end")[2].train[0]
    assert len(cut.prompt) + len(cut.completions[0].ids) == 30
    assert base_tokenizer.eos_token_id not in cut.completions[0].ids


def test_9_one_prompt_is_on_one_side_only_whatever_source_and_spelling(tmp_path):
    one = [pair(n, prompt=f"Question {n}?") for n in range(50)]
    other = [pair(n, prompt=f" question  {n}? ", chosen=" fine") for n in range(50)]
    config = DataConfig(
        train=write(tmp_path / "a.jsonl", one),
        mixture=(SourceConfig(path=write(tmp_path / "b.jsonl", other)),),
        test_fraction=0.3,
    )
    records = read_records(config)
    numbers = [{record.prompt.split()[1] for record in part} for part in records]
    assert len(records.train) + len(records.test) == 100
    assert not numbers[0] & numbers[1]
    assert all(len(part) == 2 * len(found) for part, found in zip(records, numbers, strict=True))


def test_10_opposite_labels_become_a_probability(tmp_path):
    votes = [pair(1), pair(1), pair(1, chosen=" bad 1", rejected=" good 1")]
    assert looked_at(tmp_path, votes)[0] == {"conflict": 3}
    (record,) = read_records(DataConfig(train=write(tmp_path / "b.jsonl", votes), on_conflict="soft")).train
    assert (record.chosen, record.p_chosen) == (" good 1", pytest.approx(2 / 3))


@pytest.mark.parametrize(
    ("row", "best"),
    [
        ({"prompt": "Q", "completions": ["x", "y"], "ranks": [1, 2]}, "x"),
        ({"prompt": "Q", "completions": ["x", "y"], "scores": [1, 2]}, "y"),
        ({"prompt": "Q", "answers": [{"answer": "x", "rank": 1}, {"answer": "y", "rank": 7}]}, "x"),
        ({"prompt": "Q", "response_1": "x", "response_2": "y", "preference_strength": -1}, "x"),
        ({"history": "Q", "human_ref_A": "x", "human_ref_B": "y", "labels": 1}, "x"),
        ({"instruction": "Q", "output_1": "x", "output_2": "y", "preference": 1.2}, "x"),
        ({"question": "Q", "answer_0": "x", "answer_1": "y", "score_0": -1, "score_1": 1}, "y"),
    ],
)
def test_11_which_direction_is_better(tmp_path, row, best):
    config = DataConfig(train=write(tmp_path / "a.jsonl", [row]))
    (record,) = read_records(config, "pair").train
    assert record.chosen == best


def test_12_equal_missing_and_impossible_scores(tmp_path):
    nan = {**pair(3), "margin": float("nan")}
    rows = [
        pair(1, score_chosen=1.0, score_rejected=1.0),
        pair(2, margin=0),
        nan,
        pair(4, margin="N/A"),
        pair(5, margin=1e-9),
    ]
    assert looked_at(tmp_path, rows)[0] == {"tie": 2, "wrong_type": 2}
    left_out, found, _ = looked_at(tmp_path, rows, min_margin=0.1, on_tie="keep", on_invalid="drop")
    assert left_out == {"wrong_type": 2, "small_margin": 3}
    assert found["small_margin"] == 3


def test_13_the_accuracy_of_the_longer_one_wins_is_reported(tmp_path):
    rows = [pair(n, chosen=" good" * (3 if n % 10 < 7 else 1), rejected=" bad bad") for n in range(100)]
    _, found, prepared = looked_at(tmp_path, rows)
    assert prepared.report.train.longer_chosen == 0.7
    assert found["length_bias"] == 70


def test_14_odd_names_nested_json_own_splits_and_pointers(tmp_path):
    hyphens = {"prompt": "Q", "chosen": "a", "chosen-rating": 5, "rejected": "b", "rejected-rating": 3}
    tools = json.dumps([{"type": "function", "function": {"name": "f"}}])
    config = DataConfig(
        train=write(tmp_path / "a.jsonl", [{**hyphens, "part": "dev"}, {**hyphens, "tools": tools, "part": "fit"}]),
        where={"part": "fit"},
        test_where={"part": "dev"},
    )
    with pytest.raises(DataError, match=r"a.jsonl:2: has the prompt of a.jsonl:1"):
        read_records(config)
    records = read_records(DataConfig(train=config.train, where={"part": "fit"}))
    assert records.train[0].margin == 2
    assert records.train[0].template_args["tools"][0]["function"] == {"name": "f"}
    pointer = tmp_path / "p.jsonl"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(DataError, match="this is a git-lfs pointer"):
        read_records(DataConfig(train=str(pointer)))


def test_15_the_licence_travels_with_its_source(tmp_path):
    import datasets

    info = datasets.DatasetInfo(license="odc-by")
    datasets.Dataset.from_list([pair(1), pair(2)], info=info).save_to_disk(tmp_path / "saved")
    stated = SourceConfig(path=write(tmp_path / "b.jsonl", [pair(3)]), licence="CC BY-NC 4.0")
    silent = SourceConfig(path=write(tmp_path / "c.jsonl", [pair(4)]))
    config = DataConfig(train=str(tmp_path / "saved"), mixture=(stated, silent))
    sources = prepare(config, None, "pair").report.as_dict()["train"]["sources"]
    assert [source["licence"] for source in sources] == ["odc-by", "CC BY-NC 4.0", None]
