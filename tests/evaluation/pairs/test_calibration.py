import numpy as np
import pytest
from scipy.special import logit

from exptilt.evaluation.intervals import Clusters
from exptilt.evaluation.pairs.calibration import calibration


def test_error_and_bins_by_hand():
    # Confidences .65, .65, .95 with outcomes right, wrong, right.
    margins = [logit(0.65), -logit(0.65), logit(0.95)]
    found = calibration(margins, Clusters(range(3)), num_bins=5)
    assert [(round(one.low, 1), one.count, one.observed) for one in found.bins] == [(0.6, 2, 0.5), (0.9, 1, 1.0)]
    assert found.bins[0].predicted == pytest.approx(0.65)
    assert found.error.value == pytest.approx(2 / 3 * 0.15 + 1 / 3 * 0.05)


def test_a_margin_of_zero_is_right_half_of_the_time():
    found = calibration([0.0, 0.0], Clusters([0, 1]))
    assert (found.bins[0].predicted, found.bins[0].observed, found.error.value) == (0.5, 0.5, 0.0)


def test_certainty_stays_in_the_last_bin():
    found = calibration([1000.0, -1000.0], Clusters([0, 1]))
    assert [(one.high, one.count, one.observed) for one in found.bins] == [(1.0, 2, 0.5)]
    assert found.error.value == pytest.approx(0.5)


def test_copies_of_a_prompt_change_nothing():
    margins = np.random.default_rng(0).normal(size=50)
    once = calibration(margins, Clusters(range(50)))
    copied = calibration(np.repeat(margins, 3), Clusters(np.repeat(range(50), 3)))
    assert copied.error.value == pytest.approx(once.error.value)
    assert copied.error.high == pytest.approx(once.error.high)
