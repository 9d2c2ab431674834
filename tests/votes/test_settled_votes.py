"""Votes to opinions: each rater one voice, each order counts alike, and every vote that is not used is counted."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from exptilt.errors import DataError
from exptilt.preferences import Comparison
from exptilt.verbs.pair import pair, pair_request
from exptilt.votes.settled_votes import VoteRule
from exptilt.votes.vote_records import ADJUDICATOR, Rater, Vote
from exptilt.votes.vote_store import VoteStore

TWO = Comparison("2 + 2?", ("4", "5"))
THREE = Comparison("Capital?", ("Lyon", "Nice", "Paris"))
COMPARISONS = {TWO.id: TWO, THREE.id: THREE}
ANNA, BEN, CLEO = (Rater("person", name) for name in ("anna", "ben", "cleo"))
JUDGE = Rater("judge", "gpt", "server x gpt")
_COUNT = iter(range(10**6))


def vote(rater, outcome=None, order=(0, 1), comparison=TWO, **more) -> Vote:
    more.setdefault("nonce", f"n{next(_COUNT)}")
    return Vote(comparison=comparison.id, rater=rater, order=order, outcome=outcome, **more)


def settle(votes, **rule):
    left_out: Counter[str] = Counter()
    return VoteRule(**rule).settle(votes, COMPARISONS, left_out), left_out


# anna: "4"; ben: "4"; cleo: "5", shown the other way round; the judge calls it a tie
DISPUTED = [vote(ANNA, "first"), vote(BEN, "second", (1, 0)), vote(CLEO, "first", (1, 0)), vote(JUDGE, "tie")]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("soft", (1 + 1 + 0 + 0.5) / 4), ("majority", 1.0), ("drop", np.nan)],
)
def test_what_becomes_of_a_dispute(rule, expected):
    (settled,), _ = settle(DISPUTED, on_dispute=rule)
    np.testing.assert_allclose(settled.wins[0, 1], expected)
    np.testing.assert_allclose(settled.wins[1, 0], 1 - expected)
    assert (settled.num_raters, settled.num_orders) == (4, 2)


def test_raters_who_agree_are_no_dispute_however_sure_they_are():
    votes = [vote(ANNA, "first"), vote(JUDGE, "first", probability=0.6)]
    (settled,), _ = settle(votes, on_dispute="drop")
    assert settled.wins[0, 1] == 1.0
    (settled,), _ = settle(votes)
    assert settled.wins[0, 1] == pytest.approx(0.8)


def test_a_tie_of_votes_is_one_half_by_every_rule():
    votes = [vote(ANNA, "first"), vote(BEN, "second")]
    assert [settle(votes, on_dispute=rule)[0][0].wins[0, 1] for rule in ("soft", "majority")] == [0.5, 0.5]
    (settled,), _ = settle([vote(ANNA, "tie"), vote(BEN, "tie")], on_dispute="drop")
    assert settled.wins[0, 1] == 0.5


def test_orders_count_alike_and_a_rater_has_one_voice():
    # the judge prefers the first slot three times in one order and the same answer once in the other: a leaning, no opinion
    leaning = [vote(JUDGE, "first", (0, 1), replicate=n) for n in range(3)] + [vote(JUDGE, "first", (1, 0))]
    (settled,), _ = settle(leaning)
    assert settled.wins[0, 1] == 0.5
    (settled,), _ = settle([*leaning, vote(ANNA, "first")])
    assert settled.wins[0, 1] == 0.75
    assert settled.num_raters == 2


def test_both_bad_is_no_approval_of_either():
    (settled,), _ = settle([vote(ANNA, "both_bad"), vote(BEN, "both_bad"), vote(CLEO, "first")])
    assert settled.both_bad
    np.testing.assert_allclose(settled.wins[0, 1], 2 / 3)
    np.testing.assert_allclose(settled.approval, [1 / 3, 0])
    (settled,), _ = settle([vote(ANNA, "tie"), vote(BEN, "tie")])
    assert not settled.both_bad
    assert np.isnan(settled.approval).all()


def test_a_ranking_counts_in_the_sorted_answers():
    # shown Paris, Lyon, Nice; ranked 1, 3, 2
    (settled,), _ = settle([vote(ANNA, order=(2, 0, 1), ranking=(1, 3, 2), comparison=THREE)])
    assert settled.wins[2].tolist() == [1.0, 1.0, 0.5]
    assert settled.wins[1, 0] == 1.0
    assert settled.approval[[0, 2]].tolist() == [0.0, 1.0]
    assert np.isnan(settled.approval[1])  # it wins against half of the others


def test_rankings_of_several_raters_by_rule():
    votes = [
        vote(ANNA, order=(0, 1, 2), ranking=(3, 2, 1), comparison=THREE),
        vote(BEN, order=(0, 1, 2), ranking=(2, 3, 1), comparison=THREE),
        vote(CLEO, order=(2, 1, 0), ranking=(1, 2, 2), comparison=THREE),
    ]
    (soft,), _ = settle(votes)
    np.testing.assert_allclose(soft.wins[0], [0.5, (0 + 1 + 0.5) / 3, 0])
    (majority,), _ = settle(votes, on_dispute="majority")
    assert majority.wins[0].tolist() == [0.5, 0.5, 0.0]
    (dropped,), _ = settle(votes, on_dispute="drop")
    assert np.isnan(dropped.wins[0, 1])
    assert dropped.wins[2].tolist() == [1.0, 1.0, 0.5]


def test_everything_not_used_is_counted():
    old = vote(ANNA, "second", nonce="old")
    votes = [
        old,
        vote(ANNA, "first", supersedes="old"),
        vote(BEN, "skip"),
        vote(JUDGE, "unscored"),
        vote(CLEO, "first", question="shorter"),
        vote(CLEO, "first", order=(0, 1, 2), comparison=THREE),
    ]
    (settled,), left_out = settle(votes, question="better")
    assert settled.wins[0, 1] == 1.0
    assert left_out == {
        "replaced by a later vote (votes)": 1,
        "skip (votes)": 1,
        "unscored (votes)": 1,
        "another question (votes)": 1,
        "a choice of two among more than two answers (votes)": 1,
    }
    settled, left_out = settle([vote(ANNA, "first"), vote(ANNA, "first", (1, 0))], wanted=2)
    assert settled == []
    assert left_out == {"fewer than 2 raters (comparisons)": 1}


@pytest.mark.parametrize(
    ("raters", "share", "others"),
    [((), 0.625, 0), (("people",), 2 / 3, 1), (("judges",), 0.5, 3), (("anna", "gpt"), 0.75, 2)],
)
def test_raters_are_chosen_by_group_or_name(raters, share, others):
    (settled,), left_out = settle(DISPUTED, raters=raters)
    assert settled.wins[0, 1] == pytest.approx(share)
    assert left_out["other raters (votes)"] == others


def test_what_cannot_be_chosen_is_one_line():
    with pytest.raises(DataError, match=r"votes.raters: 'ana' has no votes; did you mean 'anna'\?"):
        settle(DISPUTED, raters=("ana",))
    two = [vote(ANNA, "first"), vote(ANNA, "first", question="shorter")]
    with pytest.raises(DataError, match=r"on 2 questions, name one: 'better' \(1\); 'shorter' \(1\)"):
        settle(two)
    with pytest.raises(DataError, match=r"nobody was asked 'shortr'; did you mean 'shorter'\?"):
        settle(two, question="shortr")


def test_a_vote_that_was_taken_back_is_one_replaced_vote():
    first = vote(ANNA, "first", nonce="a")
    back = vote(ANNA, "unscored", nonce="a-undo", supersedes="a")
    settled, left_out = settle([first, back, vote(BEN, "second")])
    assert settled[0].wins[0, 1] == 0.0
    assert left_out == {"replaced by a later vote (votes)": 1}


@pytest.mark.parametrize("rule", ["soft", "majority", "drop"])
def test_a_settled_dispute_is_what_the_owner_said(rule):
    owner = Rater("person", "root", ADJUDICATOR)
    settled, _ = settle([*DISPUTED, vote(owner, "second")], on_dispute=rule, wanted=3)
    assert settled[0].wins[0, 1] == 0.0
    assert settled[0].num_raters == 1


def test_either_kind_of_store_gives_the_same_rows(where, tmp_path):
    with VoteStore(where) as store:
        for number, one in enumerate(DISPUTED):
            store.add(TWO, replace(one, nonce=f"pair{number}"))
        store.add_sources([(TWO, ("small", "large"))])
    output = tmp_path / "rows.jsonl"
    pair(pair_request([where], output))
    (row,) = map(json.loads, output.read_text().splitlines())
    assert (row["prompt"], row["chosen"], row["rejected"], row["p_chosen"]) == ("2 + 2?", "4", "5", 0.625)
    assert (row["chosen_model"], row["num_raters"], row["num_orders"]) == ("small", 4, 2)
