"""`exptilt pair`: rows that training reads, with everything that was left out counted."""

from __future__ import annotations

import json

import numpy as np
import pytest

from exptilt.data.prepared import prepare
from exptilt.errors import ConfigError, DataError, DiskError
from exptilt.kinds import LIST, PAIR, UNPAIRED
from exptilt.policies.tokenizers import train_tokenizer
from exptilt.sampling.sample_rows import SampleRow, prompt_id
from exptilt.settings.data_settings import DataConfig
from exptilt.settings.load import load
from exptilt.settings.pair_settings import PairRequest
from exptilt.verbs.pair import pair


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["the film was good and the plot was bad"] * 4, 300)


def samples(path, said: dict, tokenizer=None, answers=None) -> str:
    rows = []
    for prompt, completions in said.items():
        for index, text in enumerate(completions):
            ids = None if tokenizer is None else (*map(ord_of(tokenizer), text), tokenizer.eos_token_id)
            rows.append(
                SampleRow(
                    prompt_id=prompt_id(prompt),
                    prompt=prompt,
                    sample_index=index,
                    completion=text,
                    ended=True,
                    prompt_ids=None if ids is None else tuple(tokenizer(prompt)["input_ids"]),
                    completion_ids=ids,
                    answer=None if answers is None else answers[prompt],
                )
            )
    path.write_text("".join(row.line() for row in rows))
    return str(path)


def ord_of(tokenizer):
    """One token a letter: never how the tokenizer itself spells a word it knows."""
    return lambda letter: tokenizer(letter, add_special_tokens=False)["input_ids"][0]


def run(output, *settings: str) -> list[dict]:
    pair(load(PairRequest, None, [f"output={output}", *settings]))
    return [json.loads(line) for line in output.read_text().splitlines()]


def test_a_verifier_prefers_right_over_wrong(tmp_path, capsys):
    said = {"2+2": ["#### 4", "#### 5", "#### 4"], "1+1": ["#### 3", "#### 3"], "3+3": ["#### 6", "none"]}
    folder = samples(tmp_path / "s.jsonl", said, answers={"2+2": "4", "1+1": "2", "3+3": "6"})
    rows = run(tmp_path / "pairs.jsonl", f"samples=[{folder}]", "reward={kind: verifier, check: gsm8k}", "pairs=all")
    assert [(row["prompt"], row["chosen"], row["rejected"], row["margin"]) for row in rows] == [
        ("2+2", "#### 4", "#### 5", 1.0),
        ("2+2", "#### 4", "#### 5", 1.0),
        ("3+3", "#### 6", "none", 1.0),
    ]
    assert "left out: 2 with ties" in capsys.readouterr().out


def test_the_stronger_model_is_preferred_whatever_it_said(tmp_path):
    strong = samples(tmp_path / "strong.jsonl", {"a": ["one", "two"], "b": ["same"]})
    weak = samples(tmp_path / "weak.jsonl", {"a": ["three"], "b": ["same"]})
    rows = run(tmp_path / "delta.jsonl", f"samples=[{strong}, {weak}]", "label=source")
    assert [(row["chosen"], row["rejected"]) for row in rows] == [("one", "three")]
    assert "margin" not in rows[0]


def test_two_models_are_the_two_sides_and_a_reward_decides(tmp_path):
    one = samples(tmp_path / "one.jsonl", {"a": ["long answer", "x"]})
    other = samples(tmp_path / "other.jsonl", {"a": ["short", "longer"]})
    rows = run(tmp_path / "p.jsonl", f"samples=[{one}, {other}]", "reward.kind=length", "pairs=across")
    assert [(row["chosen"], row["rejected"]) for row in rows] == [("long answer", "short"), ("longer", "x")]


def test_rankings_and_ratings_are_read_by_training(tmp_path, tokenizer):
    folder = samples(tmp_path / "s.jsonl", {"a": ["good", "good film", "bad"], "b": ["the", "the plot"]})
    settings = [f"samples=[{folder}]", "reward.kind=length"]
    rankings = run(tmp_path / "rankings.jsonl", *settings, "rows=ranking")
    assert rankings[0]["ranks"] == [2, 1, 3]
    assert rankings[0]["scores"] == [4.0, 9.0, 3.0]
    ratings = run(tmp_path / "ratings.jsonl", *settings, "rows=rating", "threshold=3.5")
    assert [row["label"] for row in ratings] == [True, True, False, False, True]
    for name, kind, count in (("rankings", LIST, 2), ("ratings", UNPAIRED, 5)):
        assert len(prepare(DataConfig(train=str(tmp_path / f"{name}.jsonl")), tokenizer, kind, None).train) == count


def test_rows_of_every_kind_keep_the_tokens_that_were_drawn(tmp_path, tokenizer):
    folder = samples(tmp_path / "s.jsonl", {"the film": ["good", "was bad", "plot"]}, tokenizer)
    settings = [f"samples=[{folder}]", "reward.kind=length"]
    (ranking,) = run(tmp_path / "rankings.jsonl", *settings, "rows=ranking")
    ratings = run(tmp_path / "ratings.jsonl", *settings, "rows=rating", "threshold=4")
    drawn = [[*map(ord_of(tokenizer), text), tokenizer.eos_token_id] for text in ("good", "was bad", "plot")]
    assert ranking["completions_ids"] == [row["completion_ids"] for row in ratings] == drawn
    for name, kind in (("rankings", LIST), ("ratings", UNPAIRED)):
        train = prepare(DataConfig(train=str(tmp_path / f"{name}.jsonl")), tokenizer, kind, None).train
        assert [part.ids.tolist() for group in train for part in group.completions] == drawn


def test_preferences_are_trained_on_the_tokens_that_were_drawn(tmp_path, tokenizer):
    folder = samples(tmp_path / "s.jsonl", {"the film": ["good", "was bad"]}, tokenizer)
    (row,) = run(tmp_path / "pairs.jsonl", f"samples=[{folder}]", "reward.kind=length")
    prepared = prepare(DataConfig(train=str(tmp_path / "pairs.jsonl")), tokenizer, PAIR, None)
    (group,) = prepared.train
    assert [part.ids.tolist() for part in group.completions] == [row["chosen_ids"], row["rejected_ids"]]
    assert len(group.completions[1].ids) > len(tokenizer("good")["input_ids"])
    assert [finding.count for finding in prepared.report.findings if finding.code == "drawn_ids"] == [1]


def test_ids_of_another_text_are_not_believed(tmp_path, tokenizer):
    row = {"prompt": "the film", "chosen": "good", "rejected": "bad"}
    ids = {"prompt_ids": [5], "chosen_ids": [6, 7], "rejected_ids": [8, 9]}
    (tmp_path / "plain.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "ids.jsonl").write_text(json.dumps(row | ids) + "\n")
    plain, other = (
        prepare(DataConfig(train=str(tmp_path / name)), tokenizer, PAIR, None) for name in ("plain.jsonl", "ids.jsonl")
    )
    assert "foreign_ids" in [finding.code for finding in other.report.findings]
    for one, same in zip(plain.train[0].completions, other.train[0].completions, strict=True):
        assert np.array_equal(one.ids, same.ids)


def test_what_prefers_nothing_is_one_line_and_writes_nothing(tmp_path):
    folder = samples(tmp_path / "s.jsonl", {"a": ["abc", "xyz"]})
    output = tmp_path / "pairs.jsonl"
    with pytest.raises(DataError, match="reward length: gives 3 to all 2 answers"):
        run(output, f"samples=[{folder}]", "reward.kind=length")
    with pytest.raises(DataError, match="no row has the column 'answer'"):
        run(output, f"samples=[{folder}]", "reward={kind: verifier, check: gsm8k}")
    assert not output.exists()
    output.write_text("mine")
    with pytest.raises(ConfigError, match="is there already and is not replaced"):
        run(output, f"samples=[{folder}]", "reward.kind=length")
    with pytest.raises(ConfigError, match="samples must name two folders"):
        run(output, f"samples=[{folder}]", "label=source")
    with pytest.raises(ConfigError, match="reward is missing"):
        run(output, f"samples=[{folder}]")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"a": 1}\n', "s.jsonl:1: is no row of samples (it has no 'prompt')"),
        (b'{"prompt": "a"}\n', "s.jsonl:1: is no row of samples (it lacks"),
        (b'{"prompt": "a", "colour": 1}\n', "unexpected keyword argument 'colour'"),
        (b"hello\n", "s.jsonl:1: is not valid JSON"),
        (b"\x97\xff\x00\n", "s.jsonl:1: is not valid JSON"),
        (b"", "holds no samples"),
    ],
)
def test_what_are_no_samples_is_one_line(tmp_path, content, said):
    (tmp_path / "s.jsonl").write_bytes(content)
    with pytest.raises(DataError) as refusal:
        run(tmp_path / "pairs.jsonl", f"samples=[{tmp_path / 's.jsonl'}]", "reward.kind=length")
    assert said in str(refusal.value)


def test_an_output_below_a_file_is_one_line(tmp_path):
    folder = samples(tmp_path / "s.jsonl", {"a": ["abc", "x"]})
    with pytest.raises(DiskError, match="cannot be written"):
        run(tmp_path / "s.jsonl" / "pairs.jsonl", f"samples=[{folder}]", "reward.kind=length")


def test_completions_without_a_partner_are_counted_whoever_decides(tmp_path, capsys):
    one = samples(tmp_path / "one.jsonl", {"a": ["long answer", "x", "y"]})
    other = samples(tmp_path / "other.jsonl", {"a": ["short"]})
    run(tmp_path / "p.jsonl", f"samples=[{one}, {other}]", "reward.kind=length", "pairs=across")
    run(tmp_path / "q.jsonl", f"samples=[{one}, {other}]", "label=source")
    assert capsys.readouterr().out.count("left out: 2 with no completion of the other samples beside them") == 2


def test_rows_say_which_model_wrote_each_side(tmp_path):
    strong = tmp_path / "strong"
    strong.mkdir()
    (strong / "sampling.yaml").write_text("identity: abc\nserver: {url: 'http://localhost:1/v1', model: big}\n")
    samples(strong / "samples.jsonl", {"a": ["one"]})
    weak = tmp_path / "weak"
    weak.mkdir()
    (weak / "sampling.yaml").write_text("identity: abc\nmodel: {path: runs/small/model}\n")
    samples(weak / "samples.jsonl", {"a": ["two"]})
    (row,) = run(tmp_path / "delta.jsonl", f"samples=[{strong}, {weak}]", "label=source")
    assert (row["chosen_model"], row["rejected_model"]) == ("big", "runs/small/model")


def test_a_check_that_takes_too_long_is_counted_by_its_name(tmp_path, capsys):
    folder = samples(tmp_path / "s.jsonl", {"a": ["aaa", "a" * 40 + "!", "b"]})
    check = "reward={kind: verifier, check: regex, pattern: '^(?:a+)+$', timeout: 1}"
    (row,) = run(tmp_path / "pairs.jsonl", f"samples=[{folder}]", check, "pairs=all")
    assert (row["chosen"], row["rejected"]) == ("aaa", "b")
    said = capsys.readouterr().out
    assert "left out: 1 with a check that took too long (completions)" in said
    assert "no score" not in said


def test_ties_that_are_kept_are_said(tmp_path, capsys):
    folder = samples(tmp_path / "s.jsonl", {"a": ["abc", "xyz", "long"]})
    run(tmp_path / "p.jsonl", f"samples=[{folder}]", "reward.kind=length", "pairs=all", "on_tie=keep")
    assert "note: 1 tie is kept; data.on_tie=keep trains on them" in capsys.readouterr().out
