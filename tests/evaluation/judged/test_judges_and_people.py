"""Judges beside people: what is counted, who is left out, and how a judge leans for a policy."""

import numpy as np
import pytest

from exptilt.evaluation.intervals import Resampling
from exptilt.evaluation.judged.judges_and_people import by_policy, judges_and_people
from exptilt.preferences import Comparison
from exptilt.votes.rater_table import rater_table
from exptilt.votes.vote_records import Rater, Vote

QUICK = Resampling(num_resamples=100)
PEOPLE = [Rater("person", name) for name in ("anna", "ben", "cleo")]
JUDGE = Rater("judge", "m", "x")


def vote(pair, rater, outcome, order=(0, 1), **more):
    nonce = f"{pair.id} {rater.name} {order}"
    return Vote(comparison=pair.id, rater=rater, order=order, outcome=outcome, nonce=nonce, **more)


def simulated(seed, items=200, alone=300, share=0.6, lean=0.1):
    """People on some items, a judge on all, which says more often than people that policy B (the second) won."""
    rng, votes, pairs, sources = np.random.default_rng(seed), [], {}, {}
    for k in range(items + alone):
        pair = Comparison(f"p{k}", ("a", "bb"))
        pairs[pair.id], sources[pair.id] = pair, {0: ["A"], 1: ["B"]}
        truth = rng.random() < share
        for rater in PEOPLE if k < items else []:
            said = truth if rng.random() < 0.85 else not truth
            votes.append(vote(pair, rater, "second" if said else "first"))
        said = rng.random() < (0.8 if truth else 0.2) + lean
        votes.append(vote(pair, JUDGE, "second" if said else "first"))
    return votes, pairs, sources


def test_what_is_not_a_choice_is_counted():
    pairs = [Comparison(f"p{k}", ("a", "b")) for k in range(6)]
    outcomes = ["first", "tie", "both_bad", "skip", "unscored", "first"]
    votes = [vote(pair, JUDGE, outcome) for pair, outcome in zip(pairs, outcomes, strict=True)]
    votes += [vote(pair, person, "first") for person in PEOPLE[:2] for pair in pairs]
    found = judges_and_people(rater_table(votes, {one.id: one for one in pairs}), votes, resampling=QUICK)
    counts = found["raters"]["m"]["counts"]
    assert (counts.votes, counts.ties, counts.skipped, counts.unscored, counts.missing) == (4, 2, 1, 1, 2)
    assert found["items"] == 6
    assert found["raters"]["m"]["pair"].votes == 8  # with both people, on the four that it chose on
    assert found["leave_one_out"] == {}  # two people: nobody stands for the others


def test_every_person_is_left_out_in_turn():
    votes, pairs, _ = simulated(0)
    found = judges_and_people(rater_table(votes, pairs), votes, resampling=QUICK)["leave_one_out"]
    assert set(found) == {"anna", "ben", "cleo"}
    # A person agrees with a majority of two (half a point where they differ) in .85^2 + .15^2 of the cases on average.
    assert np.mean([one["person"] for one in found.values()]) == pytest.approx(0.745, abs=0.04)
    for one in found.values():
        assert one["gains"]["m"].value == pytest.approx(0.5 + 0.35 * 0.6 - 0.745, abs=0.09)
        assert one["gains"]["m"].interval is not None


def test_the_bias_of_a_judge_for_a_policy_has_an_interval_that_holds():
    held, seen = 0, []
    truth = (0.9 * 0.6 + 0.3 * 0.4) - (0.85 * 0.6 + 0.15 * 0.4)
    for seed in range(100):
        votes, pairs, sources = simulated(seed, items=80, alone=40)
        found = by_policy(rater_table(votes, pairs), sources, "B", QUICK)["B"]["m"]
        held += found.bias.low <= truth <= found.bias.high
        seen.append(found.bias.value)
        assert found.judge.value - found.people.value == pytest.approx(found.bias.value)
    assert np.mean(seen) == pytest.approx(truth, abs=0.02)
    assert held >= 90


def test_without_a_name_every_policy_is_shown_and_a_judge_without_items_of_its_own_has_no_powered_rate():
    votes, pairs, sources = simulated(1, items=60, alone=0)
    found = by_policy(rater_table(votes, pairs), sources, None, QUICK)
    assert set(found) == {"A", "B"}
    assert found["A"]["m"].powered is None
    assert found["A"]["m"].bias.value == pytest.approx(-found["B"]["m"].bias.value)
