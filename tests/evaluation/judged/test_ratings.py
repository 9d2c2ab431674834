"""Ratings against an exact two-policy value, a simulated scale, cycles and disconnected policies."""

import numpy as np
import pytest

from exptilt.evaluation.intervals import Resampling
from exptilt.evaluation.judged.ratings import count_cycles, rate, von_neumann_winner

QUICK = Resampling(num_resamples=100)


def test_two_policies_have_the_log_odds_of_their_wins():
    found = rate(["a", "b"], [0] * 10, [1] * 10, [1] * 7 + [0] * 3, range(10), QUICK)
    assert found.ratings[0].value - found.ratings[1].value == pytest.approx(np.log(7 / 3), abs=1e-6)
    assert found.slot is None  # b was never shown first: the slot cannot be told from the policy


def test_a_simulated_scale_with_a_slot_effect_comes_back():
    rng, truth = np.random.default_rng(0), np.array([0.8, 0.1, -0.3, -0.6])
    first, second = rng.integers(4, size=40_000), rng.integers(4, size=40_000)
    keep = first != second
    first, second = first[keep], second[keep]
    wins = rng.random(len(first)) < 1 / (1 + np.exp(-(truth[first] - truth[second] + 0.5)))
    found = rate("abcd", first, second, wins, np.arange(len(first)) // 40, QUICK)
    assert [r.value for r in found.ratings] == pytest.approx(truth - truth.mean(), abs=0.05)
    assert found.slot.value == pytest.approx(0.5, abs=0.04)
    assert (found.cycles, found.triples) == (0, 4)
    assert found.von_neumann == pytest.approx([1, 0, 0, 0])


def test_policies_that_never_lose_to_the_rest_have_no_rating():
    found = rate("abc", [0, 0, 1, 2], [1, 1, 2, 1], [1, 1, 1, 1], range(4), QUICK)
    assert found.ratings is None
    assert sorted(found.groups) == [("a",), ("b", "c")]
    assert found.von_neumann is None  # a and c were never compared


def test_rock_paper_scissors_is_a_cycle_and_the_winner_is_the_even_mixture():
    first, second = [0, 1, 2] * 10, [1, 2, 0] * 10
    found = rate("rps", first, second, [1] * 24 + [0] * 6, range(30), QUICK)
    assert (found.cycles, found.triples) == (1, 1)
    assert found.von_neumann == pytest.approx([1 / 3] * 3)
    assert max(abs(r.value) for r in found.ratings) < 1e-6


def test_the_von_neumann_winner_never_loses():
    rng = np.random.default_rng(1)
    for count in (2, 5, 8):
        shares = rng.random((count, count))
        shares = (shares + 1 - shares.T) / 2
        mixture = von_neumann_winner(shares)
        assert mixture.sum() == pytest.approx(1)
        assert (mixture @ shares).min() >= 0.5 - 1e-9


def test_cycles_of_a_regular_tournament():
    beats = np.array([[0.5 if i == j else float((j - i) % 5 in (1, 2)) for j in range(5)] for i in range(5)])
    assert count_cycles(beats) == (5, 10)  # n (n^2 - 1) / 24
