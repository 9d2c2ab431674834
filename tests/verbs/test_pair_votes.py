"""`exptilt pair votes.db`: the way from votes to rows that training reads."""

from __future__ import annotations

import json
import sqlite3
import sys

import pytest

from exptilt.cli import main
from exptilt.data.prepared import prepare
from exptilt.errors import ConfigError, DataError
from exptilt.kinds import LIST, PAIR, UNPAIRED
from exptilt.policies.tokenizers import train_tokenizer
from exptilt.preferences import Comparison
from exptilt.sampling.sample_rows import SampleRow, prompt_id
from exptilt.settings.data_settings import DataConfig
from exptilt.verbs.pair import pair, pair_request
from exptilt.votes.vote_records import Rater, Vote
from exptilt.votes.vote_store import VoteStore

ANNA, BEN = Rater("person", "anna"), Rater("person", "ben")
FILM = Comparison("the film", ("bad", "good"))
PLOT = Comparison("the plot", ("bad plot", "good plot"))
BOTH_BAD = Comparison("the end", ("bad", "was bad"))
THREE = Comparison("the good", ("bad", "good", "plot"))


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["the film was good and the plot was bad"] * 4, 300)


def store_of(path, *votes, sources=()) -> str:
    with VoteStore(path) as store:
        for number, (comparison, rater, outcome, order) in enumerate(votes):
            said = {"ranking": outcome} if isinstance(outcome, tuple) else {"outcome": outcome}
            store.add(comparison, Vote(comparison=comparison.id, rater=rater, order=order, nonce=f"n{number}", **said))
        store.add_sources(sources)
    return str(path)


def run(output, *words: str) -> list[dict]:
    pair(pair_request([*words], output))
    return [json.loads(line) for line in output.read_text().splitlines()]


VOTES = [
    (FILM, ANNA, "second", (0, 1)),
    (FILM, BEN, "first", (1, 0)),
    (PLOT, ANNA, "first", (1, 0)),
    (PLOT, BEN, "tie", (0, 1)),
    (BOTH_BAD, ANNA, "both_bad", (0, 1)),
    (BOTH_BAD, BEN, "both_bad", (1, 0)),
]


def test_votes_become_soft_preferences(tmp_path, capsys):
    sources = [(FILM, ("weak", "strong")), (PLOT, ("weak", "strong"))]
    rows = run(tmp_path / "rows.jsonl", store_of(tmp_path / "votes.db", *VOTES, sources=sources))
    assert [(row["prompt"], row["chosen"], row["rejected"], row["p_chosen"]) for row in rows] == [
        ("the film", "good", "bad", 1.0),
        ("the plot", "good plot", "bad plot", 0.75),
        ("the end", "bad", "was bad", 0.5),
    ]
    assert [row.get("both_desirable") for row in rows] == [None, None, False]
    assert (rows[0]["chosen_model"], rows[0]["rejected_model"]) == ("strong", "weak")
    assert [(row["num_raters"], row["num_orders"]) for row in rows] == [(2, 2), (2, 2), (2, 2)]
    said = capsys.readouterr().out
    assert "both answers are bad in 1 comparison" in said
    assert "1 tie is kept; data.on_tie=keep trains on them" in said


def test_what_is_dropped_is_counted(tmp_path, capsys):
    store = store_of(tmp_path / "votes.db", *VOTES)
    rows = run(tmp_path / "rows.jsonl", store, "votes.on_dispute=drop", "on_tie=drop")
    assert [row["chosen"] for row in rows] == ["good"]
    said = capsys.readouterr().out
    assert "left out: 1 with raters who disagree (pairs)" in said
    assert "left out: 1 with ties" in said
    rows = run(tmp_path / "one.jsonl", store, "votes.raters=[ben]", "votes.wanted=1")
    assert [(row["chosen"], row["p_chosen"]) for row in rows] == [("good", 1.0), ("bad plot", 0.5), ("bad", 0.5)]
    assert "3 of 3 comparisons were shown in one order only" in capsys.readouterr().out


def test_both_bad_is_two_undesirable_rows(tmp_path, tokenizer):
    store = store_of(tmp_path / "votes.db", *VOTES)
    rows = run(tmp_path / "ratings.jsonl", store, "rows=rating")
    assert [(row["prompt"], row["completion"], row["label"]) for row in rows] == [
        ("the film", "bad", False),
        ("the film", "good", True),
        ("the plot", "bad plot", False),
        ("the plot", "good plot", True),
        ("the end", "bad", False),
        ("the end", "was bad", False),
    ]
    run(tmp_path / "pairs.jsonl", store)
    for name in ("ratings", "pairs"):  # a file of preferences says the same to KTO
        train = prepare(DataConfig(train=str(tmp_path / f"{name}.jsonl")), tokenizer, UNPAIRED, None).train
        assert sorted(group.label.desirable for group in train) == [False] * 4 + [True] * 2


def test_rankings_become_ranking_rows(tmp_path, tokenizer):
    ranked = [(THREE, ANNA, (3, 1, 2), (0, 1, 2)), (THREE, BEN, (1, 3, 2), (1, 0, 2))]
    store = store_of(tmp_path / "votes.db", *ranked)
    (row,) = run(tmp_path / "rows.jsonl", store)
    assert (row["completions"], row["ranks"], row["scores"]) == (["bad", "good", "plot"], [3, 1, 2], [0.0, 1.0, 0.5])
    (group,) = prepare(DataConfig(train=str(tmp_path / "rows.jsonl")), tokenizer, LIST, None).train
    assert group.label.ranks == (3, 1, 2)
    rows = run(tmp_path / "pairs.jsonl", store, "rows=preference", "pairs=adjacent")
    assert [(row["chosen"], row["rejected"]) for row in rows] == [("good", "plot"), ("plot", "bad")]


def test_token_ids_come_from_the_samples(tmp_path, tokenizer):
    samples = tmp_path / "samples.jsonl"
    turns = ({"role": "user", "content": "the film"},)
    rows = []
    for number, text in enumerate(("bad", "good")):
        letters = [tokenizer(letter, add_special_tokens=False)["input_ids"][0] for letter in text]
        ids = {"prompt_ids": (5, 6), "completion_ids": (*letters, tokenizer.eos_token_id)}
        asked = {"prompt_id": prompt_id(turns), "prompt": turns, "template_args": {"thinking": False}}
        rows.append(SampleRow(sample_index=number, completion=text, ended=True, **asked, **ids))
    samples.write_text("".join(row.line() for row in rows))
    store = store_of(tmp_path / "votes.db", *VOTES[:4])
    first, second = run(tmp_path / "rows.jsonl", str(samples), store)
    assert first["chosen_ids"] == list(rows[1].completion_ids)
    assert first["prompt"] == [{"role": "user", "content": "the film"}]
    assert first["chat_template_kwargs"] == {"thinking": False}
    assert "prompt_ids" not in second
    assert len(prepare(DataConfig(train=str(tmp_path / "rows.jsonl")), tokenizer, PAIR, None).train) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["reward.kind=length"], "reward belongs to samples with a reward"),
        (["label=soft"], "label=soft belongs to samples"),
        (["pairs=across"], "pairs=across belongs to samples"),
        (["votes.wanted=0"], "wanted must be at least 1"),
        (["votes.on_dispute=mean"], "votes.on_dispute"),
    ],
)
def test_settings_that_mean_nothing_beside_votes_are_refused(tmp_path, words, said):
    with pytest.raises(ConfigError, match=said):
        pair_request([store_of(tmp_path / "votes.db", *VOTES), *words], tmp_path / "rows.jsonl")


def test_a_store_that_cannot_be_read_is_one_line(tmp_path, monkeypatch, capsys):
    def said_of(store) -> str:
        monkeypatch.setattr(sys, "argv", ["exptilt", "pair", str(store), "--output", str(tmp_path / "rows.jsonl")])
        with pytest.raises(SystemExit) as leaving:
            main()
        assert leaving.value.code
        return " ".join(capsys.readouterr().err.split())

    newer = store_of(tmp_path / "newer.db", *VOTES)
    raw = sqlite3.connect(newer)
    raw.execute("UPDATE exptilt_votes SET version = 99")
    raw.commit()
    raw.close()
    assert "has version 99 and this exptilt knows up to" in said_of(newer)
    (tmp_path / "text.db").write_text("no database, but long enough to be taken for one " * 20)
    assert "is not a store of votes" in said_of(tmp_path / "text.db")
    assert "there is no such store of votes" in said_of(tmp_path / "none.db")
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE a (b)")
    other.commit()
    other.close()
    assert "a database of something else" in said_of(tmp_path / "other.db")
    empty = store_of(tmp_path / "empty.db")
    assert "holds no votes" in said_of(empty)
    assert not (tmp_path / "rows.jsonl").exists()


def test_two_stores_or_no_vote_left_are_refused(tmp_path):
    store = store_of(tmp_path / "votes.db", *VOTES)
    with pytest.raises(ConfigError, match="is a second store of votes"):
        pair_request([store, "other.db"], tmp_path / "rows.jsonl")
    with pytest.raises(DataError, match="nothing is preferred, so no file was written"):
        pair(pair_request([store, "votes.wanted=3"], tmp_path / "rows.jsonl"))
