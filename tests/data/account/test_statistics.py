from __future__ import annotations

import pytest

from exptilt.data.account.statistics import Tally, label_weights, num_marks, suggestion
from exptilt.data.records import Preference, Rating
from exptilt.data.stage_account import Decisions
from exptilt.kinds import COMPLETION, PAIR, UNPAIRED


def noted(records, kind=PAIR):
    tally = Tally()
    for record in records:
        tally.add(record)
    findings = tally.account(kind).findings(Decisions({}))
    return tally, {finding.code: finding for finding in findings}


def pair(chosen="good", rejected="bad", p_chosen=1.0):
    return Preference(id="f:1", prompt="Q", chosen=chosen, rejected=rejected, p_chosen=p_chosen)


def rating(desirable):
    return Rating(id="f:1", prompt="Q", completion="a", desirable=desirable)


def test_the_preferred_side_is_the_likelier_one():
    tally, _ = noted([pair("**a**", "b", 0.9), pair("c", "**d**", 0.2), pair("e", "f")])
    assert (tally.markup_differs, tally.markup_preferred) == (2, 2)
    assert tally.markup_chosen == 1.0
    assert tally.p_chosen == (0.2, pytest.approx(0.7), 1.0)
    assert tally.soft == 2


def test_markup_that_wins_too_often_is_named():
    _, found = noted([pair("- a", "b")] * 90 + [pair("b", "- a")] * 30)
    assert found["markup_bias"].count == 90
    assert "75.0 % of the 120 pairs" in found["markup_bias"].message
    _, fair = noted([pair("- a", "b")] * 60 + [pair("b", "- a")] * 60)
    assert "markup_bias" not in fair


@pytest.mark.parametrize(
    ("text", "count"), [("plain - text", 0), ("# a\n## b", 2), ("1. a\n2. b", 2), ("a<br />b", 1), ("```\nx\n```", 2)]
)
def test_what_counts_as_markup(text, count):
    assert num_marks(text) == count


def test_soft_labels_are_described():
    _, found = noted([pair(p_chosen=0.6), pair(p_chosen=0.8)])
    assert found["soft_labels"].message == "p_chosen is between 0.6 and 0.8, 0.7 on average"


@pytest.mark.parametrize(
    ("desirable", "undesirable", "weights"),
    [
        (100, 300, "a desirable_weight of 3 to 4"),
        (300, 100, "an undesirable_weight of 2.25 to 3"),
        (400, 300, "weights can stay 1"),
        (100, 100, "weights can stay 1"),
    ],
)
def test_weights_by_ktos_rule(desirable, undesirable, weights):
    assert weights in label_weights(desirable, undesirable)


def test_the_named_weights_fulfil_the_rule():
    for desirable, undesirable in ((7, 100), (100, 7)):
        words = label_weights(desirable, undesirable).split()
        low, high = float(words[-3]), float(words[-1])
        for weight in (low, high):
            ratio = weight * desirable / undesirable if desirable < undesirable else desirable / (weight * undesirable)
            assert 0.99 < ratio < 4 / 3 + 0.01


def test_labels_that_are_all_one_or_sorted():
    assert "one_label" in noted([rating(True)] * 3, UNPAIRED)[1]
    found = noted([rating(True)] * 60 + [rating(False)] * 60, UNPAIRED)[1]
    assert {"label_balance", "sorted_labels"} <= found.keys()
    mixed = noted([rating(n % 2 == 0) for n in range(120)], UNPAIRED)[1]
    assert "sorted_labels" not in mixed


def test_fewer_examples_ask_for_a_larger_beta_and_learning_rate():
    said = [suggestion(PAIR, count) for count in (500, 10_000, 64_000)]
    betas = [float(text.split("beta ")[1].split(" ")[0]) for text in said]
    rates = [float(text.split("learning_rate ")[1].split(" ")[0]) for text in said]
    assert betas == sorted(betas, reverse=True)
    assert rates == sorted(rates, reverse=True)
    assert "8 steps of 64" in said[0]
    assert "beta" not in suggestion(COMPLETION, 1000)


@pytest.mark.parametrize("unit", ["\n", " \n", "\t", "<a", "1", "|", "- \n"])
def test_marks_are_counted_in_time_that_grows_with_the_text(unit):
    # Half a million characters: a count whose time grows with the square would run into the time limit of a test.
    assert num_marks(unit * 500_000) in (0, 1, 500_000)


def test_marks_stand_at_the_beginning_of_their_own_line():
    assert num_marks("\n\n  - a\n\n\t2. b\n* c") == 3
