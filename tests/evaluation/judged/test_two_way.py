"""Errors clustered by item and rater: a hand-computed one, and how often the intervals hold where raters differ."""

import numpy as np
import pytest

from exptilt.evaluation.intervals import Resampling
from exptilt.evaluation.judged.agreement import alpha_interval, krippendorff_alpha, pair_agreement
from exptilt.evaluation.judged.two_way import two_way_error, two_way_mean

QUICK = Resampling(num_resamples=100)


def world(items, raters, each, rng):
    """A judge, and people of unequal skill who vote on items of unequal difficulty."""
    truth, hard = rng.integers(2, size=items), rng.random(items) * 0.3
    skill = np.clip(rng.normal(0.75, 0.2, raters), 0.3, 1)
    votes = np.full((items, raters), np.nan)
    for i in range(items):
        for r in rng.choice(raters, each, replace=False):
            right = rng.random() < np.clip(skill[r] - hard[i] + 0.1, 0, 1)
            votes[i, r] = truth[i] if right else 1 - truth[i]
    judge = np.where(rng.random(items) < 0.75 - hard / 2, truth, 1 - truth).astype(float)
    return judge, votes


def test_hand_computed_variance():
    values = np.array([1.0, -1.0, 2.0, 0.0, -2.0, 0.0])
    found = two_way_error(values, items=[1, 1, 2, 2, 3, 3], raters=list("abcdef"))
    # items: sums 0, 2, -2; every rater has one vote, so raters add what votes take away
    assert found.variance == pytest.approx(3 / 2 * (0 + 4 + 4) / 36)
    same = two_way_error(values, items=range(6), raters=["a", "b", "a", "c", "d", "e"])
    by_items = 6 / 5 * 10 / 36
    assert same.variance == pytest.approx(by_items + 5 / 4 * (9 + 1 + 0 + 4 + 0) / 36 - by_items)
    few = two_way_error(values, items=range(6), raters=["a", "b"] * 3)
    assert few.variance == pytest.approx(by_items)  # two raters say nothing about raters


def test_intervals_hold_where_raters_differ_and_items_alone_are_too_sure():
    truths = [world(300, 200, 6, np.random.default_rng(seed)) for seed in range(1000, 1020)]
    true_agreement = np.mean([pair_agreement(*one, QUICK).agreement.value for one in truths])
    true_kappa = np.mean([pair_agreement(*one, QUICK).kappa.value for one in truths])
    rng, held = np.random.default_rng(0), np.zeros(3)
    for _ in range(100):
        judge, votes = world(600, 6, 6, rng)
        found = pair_agreement(judge, votes, QUICK)
        item, rater = np.nonzero(~np.isnan(votes))
        alone = two_way_mean(judge[item] == votes[item, rater], item, np.zeros(len(item)), QUICK)
        held += [
            found.agreement.low <= true_agreement <= found.agreement.high,
            found.kappa.low <= true_kappa <= found.kappa.high,
            alone.low <= true_agreement <= alone.high,
        ]
    assert (held[:2] >= 90).all(), held
    assert held[2] < 75


def test_alpha_is_as_sure_as_its_raters_allow():
    rng, found = np.random.default_rng(0), []
    for _ in range(60):
        _, votes = world(300, 6, 6, rng)
        interval = alpha_interval(votes, QUICK)
        found.append((interval.value, interval.high - interval.low))
    values, widths = np.array(found).T
    # Students' interval of the spread that was seen, not the third of it that items alone show.
    assert np.mean(widths) == pytest.approx(2 * 2.57 * values.std(), rel=0.25)
    _, votes = world(20, 3, 3, rng)
    assert alpha_interval(votes, QUICK).value == pytest.approx(krippendorff_alpha(votes))
