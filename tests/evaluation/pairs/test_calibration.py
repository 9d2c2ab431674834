import numpy as np
import pytest
from scipy.special import expit, logit

from exptilt.evaluation.intervals import Clusters, Resampling
from exptilt.evaluation.pairs.calibration import calibration


def test_error_and_bins_by_hand():
    # Confidences .65, .65, .95 with outcomes right, wrong, right.
    margins = [logit(0.65), -logit(0.65), logit(0.95)]
    found = calibration(margins, Clusters(range(3)), num_bins=5)
    assert [(round(one.low, 1), one.count, one.observed) for one in found.bins] == [(0.6, 2, 0.5), (0.9, 1, 1.0)]
    assert found.bins[0].predicted == pytest.approx(0.65)
    assert found.ece == pytest.approx(2 / 3 * 0.15 + 1 / 3 * 0.05)


def test_a_margin_of_zero_is_right_half_of_the_time():
    found = calibration([0.0, 0.0], Clusters([0, 1]))
    assert (found.bins[0].predicted, found.bins[0].observed, found.error.value) == (0.5, 0.5, 0.0)


def test_certainty_stays_in_the_last_bin():
    found = calibration([1000.0, -1000.0], Clusters([0, 1]))
    assert [(one.high, one.count, one.observed) for one in found.bins] == [(1.0, 2, 0.5)]
    assert found.ece == pytest.approx(0.5)


def test_copies_of_a_prompt_change_nothing():
    margins = np.random.default_rng(0).normal(size=50)
    once = calibration(margins, Clusters(range(50)))
    copied = calibration(np.repeat(margins, 3), Clusters(np.repeat(range(50), 3)))
    assert copied.error.value == pytest.approx(once.error.value)
    assert copied.error.high == pytest.approx(once.error.high)


def test_a_perfectly_calibrated_model_is_not_told_it_errs():
    rng, zero, biased, debiased = np.random.default_rng(0), 0, [], []
    for seed in range(30):
        margins = 1.5 * rng.normal(size=64)
        rows = np.where(rng.random(64) < expit(margins), margins, -margins)
        found = calibration(rows, Clusters(range(64)), resampling=Resampling(num_resamples=200, seed=seed))
        zero += found.error.low == 0
        biased.append(found.ece)
        debiased.append(found.error.value)
        assert found.null_band[0] < 0.125 < found.null_band[1]
    assert zero >= 27
    assert np.mean(biased) > 0.1
    assert np.mean(debiased) < 0.06


def test_a_model_twice_too_sure_is_told_how_far_it_is_off():
    rng, covered = np.random.default_rng(1), 0
    for seed in range(20):
        margins = 1.5 * rng.normal(size=300)
        rows = np.where(rng.random(300) < expit(margins / 2), margins, -margins)
        found = calibration(rows, Clusters(range(300)), resampling=Resampling(num_resamples=200, seed=seed))
        covered += not found.error.excludes(0.096)  # from 400,000 margins
        assert found.error.low > 0 or found.ece < found.null_band[1]
    assert covered >= 17
