"""Completions to rows by votes: what is compared, who is asked, and when a round goes on."""

from __future__ import annotations

import json

import pytest

from exptilt.errors import DataError, Waiting
from exptilt.run_folder.round_files import RoundFiles
from exptilt.runs.rounds.round_labels import RoundLabels, comparisons_of
from exptilt.sampling.sample_rows import SampleFolder, SampleRow, prompt_id
from exptilt.settings.rounds_settings import RoundJudge, RoundsConfig
from exptilt.votes.vote_records import Rater, Vote
from exptilt.votes.vote_store import VoteStore

TEXTS = {"p": ["aaaa", "b", "cc", "cc", "ddd"], "q": ["x", "x", "yy", "z", "z"]}


@pytest.fixture
def files(tmp_path):
    """Five completions of two prompts."""
    made = RoundFiles(tmp_path, 1)
    made.samples.mkdir()
    folder = SampleFolder(made.samples, "model: {path: speaker}\n")
    for prompt, texts in TEXTS.items():
        ids = {"prompt_ids": (5,)}
        folder.add(
            SampleRow(prompt_id=prompt_id(prompt), prompt=prompt, sample_index=at, completion=text, ended=True,
                      completion_ids=(7 + at, 2), **ids)
            for at, text in enumerate(texts)
        )  # fmt: skip
    return made


def vote(comparison, rater, outcome, order=(0, 1), **more):
    return Vote(
        comparison=comparison.id,
        rater=rater,
        order=order,
        outcome=outcome,
        nonce=f"{comparison.id}{rater.name}{order}",
        **more,
    )


def test_neighbours_are_compared_and_equal_texts_are_not(files):
    assert [one.answers for one in comparisons_of(files.samples, "neighbours")] == [("aaaa", "b"), ("yy", "z")]
    assert [one.answers for one in comparisons_of(files.samples, "first_rest")] == [
        ("aaaa", "b"), ("aaaa", "cc"), ("aaaa", "ddd"), ("x", "yy"), ("x", "z"),
    ]  # fmt: skip
    # Of ten pairs each: cc/cc is none, and pairs with the second cc are pairs with the first.
    assert len(comparisons_of(files.samples, "all")) == 6 + 3


def test_people_are_waited_for_and_the_same_call_goes_on(files):
    labels = RoundLabels(RoundsConfig(num_rounds=1), files, seed=0)
    with pytest.raises(
        Waiting, match=r"round 1 waits for people: 0 of 2 comparisons have 1 vote in .*round-1-votes\.db"
    ):
        labels.rows()
    one, other = comparisons_of(files.samples, "neighbours")
    anna, ben = Rater("person", "anna"), Rater("person", "ben")
    with VoteStore(files.votes, create=False) as store:
        assert store.comparisons().keys() == {one.id, other.id}  # the page has what to show
        store.add(one, vote(one, anna, "second"))  # sorted answers: aaaa, b
        store.add(other, vote(other, Rater("judge", "nobody asked"), "first"))
    with pytest.raises(Waiting, match="1 of 2 comparisons"):
        labels.rows()
    with VoteStore(files.votes) as store:
        store.add(other, vote(other, ben, "first", order=(1, 0)))  # shown z first
    rows = labels.rows().rows
    assert [(row["prompt"], row["chosen"], row["rejected"], row["p_chosen"]) for row in rows] == [
        ("p", "b", "aaaa", 1.0),
        ("q", "z", "yy", 1.0),
    ]
    assert rows[0]["chosen_ids"] == [8, 2]  # as drawn


def test_a_share_of_the_comparisons_may_be_enough_and_more_votes_may_be_wanted(files):
    one, other = comparisons_of(files.samples, "neighbours")
    half = RoundLabels(RoundsConfig(num_rounds=1, least_labelled=0.5), files, seed=0)
    with pytest.raises(Waiting, match="0 of 1 comparison have 1 vote"):
        half.rows()
    with VoteStore(files.votes) as store:
        store.add(one, vote(one, Rater("person", "anna"), "first"))
    assert [row["chosen"] for row in half.rows().rows] == ["aaaa"]
    two = RoundLabels(RoundsConfig(num_rounds=1, least_labelled=0.5, wanted=2), files, seed=0)
    with pytest.raises(Waiting, match="0 of 1 comparison have 2 votes"):
        two.rows()
    with VoteStore(files.votes) as store:
        store.add(one, vote(one, Rater("person", "ben"), "second"))
    with pytest.raises(DataError, match=r"no completion is preferred to another.*1 ties"):  # one each: a tie, dropped
        two.rows()
    kept = RoundLabels(RoundsConfig(num_rounds=1, least_labelled=0.5, wanted=2, on_tie="keep"), files, seed=0)
    assert [row["p_chosen"] for row in kept.rows().rows] == [0.5]
    assert other.id != one.id


def test_a_judge_is_asked_once_whatever_interrupts(files, monkeypatch):
    settings = RoundsConfig(num_rounds=1, judge=RoundJudge(by="longest"), pairs="all")
    labels = RoundLabels(settings, files, seed=0)
    add_all = VoteStore.add_all

    def dies(self, rows):
        add_all(self, rows[:7])
        raise KeyboardInterrupt

    monkeypatch.setattr(VoteStore, "add_all", dies)
    with pytest.raises(KeyboardInterrupt):
        labels.rows()
    monkeypatch.setattr(VoteStore, "add_all", add_all)
    rows = labels.rows().rows
    with VoteStore(files.votes) as store:
        assert len(store.votes()) == 2 * 9  # both orders of nine comparisons, each once
    assert {(row["chosen"], row["rejected"]) for row in rows} == {
        ("aaaa", "b"), ("aaaa", "cc"), ("aaaa", "ddd"), ("cc", "b"), ("ddd", "b"), ("ddd", "cc"), ("yy", "x"), ("yy", "z"),
    }  # fmt: skip  # x and z are equally long
    assert rows == sorted(rows, key=lambda row: json.dumps(row, sort_keys=True))


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        ({"by": "server:judge@https://example.org/v1"}, r"confirmed must be true for example\.org"),
        ({"by": "server:gpt"}, r"confirmed must be true for api\.openai\.com"),
        ({"by": "nobody"}, "by must be server:MODEL"),
        ({"by": "local:"}, "by must be server:MODEL"),
    ],
)
def test_a_judge_that_cannot_be_asked_is_refused_before_anything_is_sampled(judge, message):
    with pytest.raises(ValueError, match=message):
        RoundJudge(**judge)
    assert RoundJudge(by="server:judge@http://localhost:8000/v1").confirmed is False
