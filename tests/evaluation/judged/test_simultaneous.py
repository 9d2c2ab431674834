"""Intervals that hold at once, and the optimism of the best of a sweep."""

import numpy as np
import pytest

from exptilt.evaluation.intervals import Resampling
from exptilt.evaluation.judged.simultaneous import best_on_dev_half, differences, optimism_of_the_maximum, simultaneous

QUICK = Resampling(num_resamples=300)


def test_all_intervals_hold_together_as_often_as_they_say():
    rng, held = np.random.default_rng(0), 0
    for _ in range(300):
        rates = (rng.random((200, 6)) < 0.6).astype(float)
        held += all(e.low <= 0.6 <= e.high for e in simultaneous(rates, QUICK))
    assert held / 300 == pytest.approx(0.95, abs=0.035)  # one at a time they would hold together 74 %


def test_the_best_of_five_equal_ones_looks_too_good_by_what_is_expected():
    rng = np.random.default_rng(1)
    rates = np.repeat([[0.0], [1.0]], 128, axis=0)  # equal means of 1/2
    rates = np.concatenate([rng.permuted(rates, axis=0) for _ in range(5)], axis=1)
    expected = 1.163 * 0.5 / 16  # the expected maximum of five normals
    assert optimism_of_the_maximum(rates, Resampling(num_resamples=4000)) == pytest.approx(expected, abs=0.004)
    chosen = best_on_dev_half(rates, range(256), QUICK)
    assert chosen.rate.n == 128
    assert chosen.on_choosing_half > 0.5


def test_paired_differences():
    rates = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0]])
    assert differences(rates, range(4), QUICK)[0, 1].value == 0.5
