"""Comparisons from every kind of source; nothing is dropped without being counted."""

from __future__ import annotations

import json

import pytest

from exptilt.errors import DataError
from exptilt.people.items import RIGHT, read_items
from exptilt.people.vote_index import VoteIndex
from exptilt.preferences import Comparison, Verdict
from exptilt.sampling.sample_rows import SampleRow, prompt_id
from exptilt.votes.vote_records import Rater, vote_of
from exptilt.votes.vote_store import VoteStore


def answers(found) -> list[tuple[str, ...]]:
    return [item.comparison.answers for item in found.items]


def sample_folder(tmp_path, name: str, said: dict[str, list[str]]) -> str:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "sampling.yaml").write_text("{}")
    rows = [
        SampleRow(prompt_id=prompt_id(prompt), prompt=prompt, sample_index=at, completion=text, ended=True)
        for prompt, texts in said.items()
        for at, text in enumerate(texts)
    ]
    (folder / "samples.jsonl").write_text("".join(row.line() for row in rows))
    return str(folder)


def test_pairs_rankings_and_what_is_left_out(write_rows):
    rows = [
        {"prompt": "Q", "chosen": "a", "rejected": "b", "margin": 0.5},
        {"prompt": "Q", "chosen": "b", "rejected": "a"},  # the same comparison
        {"prompt": "Q", "chosen": "c", "rejected": "c"},
        {"prompt": "Q", "chosen": "c", "rejected": 7},
    ]
    found = read_items([str(write_rows("pairs.jsonl", rows))])
    assert answers(found) == [("a", "b")]
    assert found.items[0].sources == ("chosen", "rejected")
    assert found.items[0].margin == 0.5
    assert found.left_out.total() == 3
    ranked = [
        {"prompt": "Q", "completions": [f"t{n}" for n in range(size)], "ranks": list(range(1, size + 1))}
        for size in (3, 8)
    ]
    found = read_items([str(write_rows("ranked.jsonl", ranked))])
    assert answers(found) == [("t0", "t1", "t2")]
    assert found.left_out == {"more than 7 answers": 1}


def test_messages_are_compared_by_what_the_assistant_says(write_rows):
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Q"}]
    row = {
        "prompt": asked,
        "chosen": [{"role": "assistant", "content": "a"}],
        "rejected": [{"role": "assistant", "content": "b"}],
    }
    (item,) = read_items([str(write_rows("chat.jsonl", [row]))]).items
    assert item.comparison == Comparison(tuple(asked), ("a", "b"))


def test_samples_of_one_policy_meet_each_other(tmp_path):
    folder = sample_folder(tmp_path, "one", {"Q": ["a", "b", "a", "c", "d", "e"], "R": ["x"]})
    found = read_items([folder])
    assert answers(found) == [("a", "b"), ("c", "d")]
    assert found.left_out == {
        "a sample that says what another one says": 1,
        "no other sample beside it": 1,
        "a single answer": 1,
    }
    assert answers(read_items([folder], rank=True)) == [("a", "b", "c", "d", "e")]


def test_samples_of_two_policies_meet_and_their_names_are_kept(tmp_path):
    one = sample_folder(tmp_path, "one", {"Q": ["a", "b"], "R": ["x"]})
    two = sample_folder(tmp_path, "two", {"Q": ["c"], "S": ["y"]})
    found = read_items([one, two])
    assert answers(found) == [("a", "c")]
    assert found.items[0].sources == ("one", "two")
    assert found.left_out == {"a prompt that only one side answers": 2, "no sample of the other side beside it": 1}


def test_completions_of_one_prompt_in_several_rows_meet(write_rows):
    rows = [{"prompt": prompt, "completion": text} for prompt in ("Q", " ") for text in ("a", "b")]
    found = read_items([str(write_rows("said.jsonl", rows))])
    assert answers(found) == [("a", "b")]
    assert found.left_out == {"empty prompt": 2}
    with pytest.raises(DataError, match="2 with a text without a prompt"):
        read_items([str(write_rows("texts.jsonl", [{"text": "a"}, {"text": "b"}]))])


def test_a_store_is_a_source_and_a_known_file_is_mixed_in(write_rows, tmp_path):
    asked = Comparison("Q", ("b", "a"))
    with VoteStore(tmp_path / "votes.db") as store:
        verdict = Verdict(comparison=asked.id, order=(0, 1), outcome="first")
        store.add(asked, vote_of(asked, verdict, Rater("judge", "j"), "n"), sources=("mine", "theirs"))
    known = write_rows("known.jsonl", [{"prompt": "K", "chosen": "right", "rejected": "wrong"}])
    found = read_items([str(tmp_path / "votes.db")], str(known))
    by_prompt = {item.comparison.prompt: item for item in found.items}
    assert by_prompt["Q"].sources == ("theirs", "mine")  # sorted answers
    assert (by_prompt["K"].right, by_prompt["K"].sources[0]) == (0, RIGHT)


def test_a_run_meets_its_reference(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("{}")
    (folder / "samples.jsonl").write_text(json.dumps({"prompt": "Q", "policy": "new", "reference": "old"}) + "\n")
    (item,) = read_items([str(folder)]).items
    assert (item.comparison.answers, item.sources) == (("new", "old"), ("run", "reference"))


def test_what_holds_no_comparison_is_refused_with_the_reasons(write_rows):
    rows = [{"prompt": "Q", "chosen": "c", "rejected": "c"}]
    with pytest.raises(DataError, match=r"no two different answers.*1 with the same text on both sides"):
        read_items([str(write_rows("same.jsonl", rows))])
    single = write_rows("single.jsonl", [{"prompt": "Q", "completion": "c"}])
    with pytest.raises(DataError, match="known to be right"):
        read_items([str(write_rows("pairs.jsonl", [{"prompt": "Q", "chosen": "a", "rejected": "b"}]))], str(single))


def test_the_index_ignores_votes_on_other_work():
    index = VoteIndex([], ["better"])
    assert (index.num_tasks, index.task("x", "better")) == (0, None)
