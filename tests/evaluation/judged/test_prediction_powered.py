"""PPI++: what judge labels are worth, and coverage with a biased judge."""

import numpy as np
import pytest

from exptilt.evaluation.judged.prediction_powered import prediction_powered


def world(n, many, rng, sensitivity=0.75, false_positive=0.35, rate=0.58):
    truth = (rng.random(n + many) < rate).astype(float)
    judge = (rng.random(n + many) < np.where(truth == 1, sensitivity, false_positive)).astype(float)
    return truth[:n], judge[:n], judge[n:]


def test_the_interval_covers_whatever_the_judge_does_and_the_judge_alone_is_biased():
    rng, held, judged = np.random.default_rng(0), 0, []
    for _ in range(2000):
        found = prediction_powered(*world(100, 900, rng))
        held += found.win_rate.low <= 0.58 <= found.win_rate.high
        judged.append(found.judge_alone)
    assert 0.93 <= held / 2000 <= 0.97
    assert np.mean(judged) == pytest.approx(0.58 * 0.75 + 0.42 * 0.35, abs=0.003)  # .582 by luck of this judge
    biased = [prediction_powered(*world(100, 900, rng, false_positive=0.2)).judge_alone for _ in range(100)]
    assert np.mean(biased) == pytest.approx(0.519, abs=0.01)


@pytest.mark.parametrize(("correlation", "worth"), [(0.33, 111), (0.56, 139), (0.7, 179), (0.8, 236)])
def test_a_hundred_people_and_nine_hundred_judgements_are_worth(correlation, worth):
    n, many = 100, 900
    scale = 200  # the same ratio, so that the estimate is near its limit
    rng = np.random.default_rng(1)
    people = rng.normal(size=(n + many) * scale)
    judge = correlation * people + np.sqrt(1 - correlation**2) * rng.normal(size=len(people))
    found = prediction_powered(people[: n * scale], judge[: n * scale], judge[n * scale :])
    assert found.worth / scale == pytest.approx(worth, rel=0.02)


def test_a_judge_that_knows_nothing_is_not_trusted_and_costs_nothing():
    rng = np.random.default_rng(2)
    found = prediction_powered(rng.integers(2, size=100), np.ones(100), np.ones(900))
    assert (found.trust, found.win_rate) == (0, found.people_alone)
    assert "worth 0 human labels" in found.sentence
