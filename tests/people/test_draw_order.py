"""Which comparison comes next, and that dividing by the chance of being asked removes the bias of an active choice."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from exptilt.evaluation.intervals import Resampling, ratio
from exptilt.people.draw_order import FLOOR, draw_weights, fraction, inclusion, order_shown
from exptilt.votes.vote_records import Rater, Vote


def test_a_fraction_is_uniform_and_depends_on_everything():
    values = np.array([fraction("a", n) for n in range(20_000)])
    counts, _ = np.histogram(values, bins=10, range=(0, 1))
    assert ((counts - 2000) ** 2 / 2000).sum() < 27.9  # chi squared of 9 degrees, .999
    assert fraction("a", 1, "b") != fraction("a", "1b")


def test_sides_are_balanced_for_every_person_and_no_pattern_shows(items):
    some = items(1000)
    for person in ("anna", "ben"):
        first = np.array([order_shown(item, rank, person, 0)[0] for rank, item in enumerate(some)])
        assert first.sum() == 500
        # Neighbours in different blocks are independent: within four standard deviations of one half.
        assert abs(np.mean(first[1:-1:2] == first[2::2]) - 0.5) < 4 * 0.5 / np.sqrt(499)


def test_four_answers_are_shown_in_every_order(items):
    orders = Counter(order_shown(item, rank, "anna", 0) for rank, item in enumerate(items(2400, answers=4)))
    assert len(orders) == 24
    assert ((np.array(list(orders.values())) - 100) ** 2 / 100).sum() < 49.7  # 23 degrees, .999


def test_inclusion_by_hand():
    # Asked in order of waiting: the second was not, so the third, asked out of turn, is left out.
    found = inclusion([0.1, 0.5, 0.9, 0.2], [2.0, 1.0, 1.0, 0.5], [True, False, True, True])
    assert found == pytest.approx([1 - np.exp(-1.0), np.nan, np.nan, 1 - np.exp(-0.25)], nan_ok=True)
    assert inclusion([0.1, 0.5], [1.0, 1.0], [True, True]) == pytest.approx([1.0, 1.0])


def test_weights_by_hand(items):
    some = items(4)

    def votes(at: int, *shares: float) -> list[Vote]:
        judge = Rater("judge", "j")
        return [
            Vote(
                comparison=some[at].comparison.id,
                rater=judge,
                order=(0, 1),
                outcome="first",
                probability=p,
                nonce=f"{at}{p}",
            )
            for p in shares
        ]

    given = [*votes(0, 0.9, 0.1), *votes(1, 1.0, 1.0), *votes(2, 0.75, 1.0)]
    # 4 p (1 - p) of means 1/2, 1, 7/8; nobody voted on the last, which may be anything.
    assert draw_weights("disagree", some, given) == pytest.approx([1.0, FLOOR, 4 * 0.875 * 0.125, 1.0])
    by_margin = [replace(item, margin=margin) for item, margin in zip(some, (-3.0, 0.1, 2.0, 9.0), strict=True)]
    # Mid-ranks .625, .125, .375, .875 of the sizes.
    assert draw_weights("uncertain", by_margin, []) == pytest.approx(FLOOR ** np.array([0.625, 0.125, 0.375, 0.875]))


def test_a_win_rate_of_actively_chosen_comparisons_is_unbiased_and_covered():
    """1,000 comparisons whose wins depend on what makes them uncertain; 250 are asked, over and over."""
    rng = np.random.default_rng(0)
    margin = np.linspace(0, 1, 1000)
    weights = FLOOR**margin
    wins = (rng.random(1000) < 0.5 + 0.4 * margin).astype(float)  # what is certain is mostly won
    truth = wins.mean()
    plain, corrected, covered = [], [], []
    for _ in range(300):
        times = rng.exponential(size=1000) / weights
        asked = times <= np.sort(times)[249]
        chances = inclusion(times, weights, asked)
        kept = np.isfinite(chances)
        plain.append(wins[asked].mean())
        found = ratio(
            wins[kept] / chances[kept], 1 / chances[kept], np.flatnonzero(kept), Resampling(num_resamples=200)
        )
        corrected.append(found.value)
        covered.append(found.low <= truth <= found.high)
    error = np.std(corrected) / np.sqrt(300)
    assert abs(np.mean(corrected) - truth) < 4 * error + 0.005
    assert truth - np.mean(plain) > 0.05  # what is not corrected is far off
    assert 0.92 <= np.mean(covered) <= 1.0
