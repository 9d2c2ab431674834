import math

import numpy as np
import pytest

from exptilt.evaluation.intervals import (
    Clusters,
    Resampling,
    bootstrap,
    bootstraps,
    mean,
    paired_difference,
    ratio,
    resampled_weights,
    share,
    wilson,
)
from exptilt.evaluation.power import minimum_detectable_difference, prompts_needed
from exptilt.run_folder.estimate_record import Estimate


def test_the_bootstrap_interval_of_a_mean_is_the_normal_one_when_there_are_many():
    values = np.random.default_rng(0).normal(2.0, 3.0, size=2000)
    found = mean(values, np.arange(2000), Resampling(num_resamples=4000))
    error = values.std() / math.sqrt(2000)
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)
    assert found.n == 2000


def test_copies_of_a_prompts_rows_do_not_narrow_the_interval():
    values = np.random.default_rng(1).normal(size=50)
    once = mean(values, np.arange(50))
    copied = mean(np.repeat(values, 20), np.repeat(np.arange(50), 20))
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high))
    naive = mean(np.repeat(values, 20), np.arange(1000))
    assert naive.high - naive.low < 0.3 * (once.high - once.low)


@pytest.mark.parametrize(("prompts", "least"), [(10, 0.88), (30, 0.91), (60, 0.91)])
@pytest.mark.parametrize("skewed", [False, True])
def test_intervals_of_means_cover_the_truth_as_often_as_they_say(prompts, least, skewed):
    rng, covered = np.random.default_rng(prompts), 0
    for seed in range(300):
        draw = rng.exponential if skewed else rng.normal
        rows = (draw(size=(prompts, 1)) + draw(size=(prompts, 4))).ravel()
        resampling = Resampling(seed=seed, num_resamples=300)
        covered += not mean(rows, np.repeat(np.arange(prompts), 4), resampling).excludes(2.0 if skewed else 0.0)
    assert least <= covered / 300 <= 0.985


def test_intervals_of_shares_of_clustered_rows_cover_the_truth():
    rng, covered = np.random.default_rng(3), 0
    for _ in range(400):
        rows = (rng.random((30, 4)) < rng.beta(4.5, 0.5, size=(30, 1))).astype(float)
        total = rows.sum(axis=1)
        found = share(lambda weights, total=total: weights @ total / (4 * weights.sum(axis=1)), 30, 120)
        covered += not found.excludes(0.9)
    assert 0.92 <= covered / 400 <= 0.985


def test_both_ways_to_a_mean_agree():
    values = np.random.default_rng(8).exponential(size=40)
    closed, general = mean(values, np.arange(40)), bootstrap(lambda weights: weights @ values / weights.sum(axis=1), 40)
    assert (closed.low, closed.high) == pytest.approx((general.low, general.high), rel=1e-9)


def test_thousands_of_prompts_are_resampled_in_groups():
    values = np.random.default_rng(9).normal(size=5000)
    found = bootstrap(lambda weights: weights @ values / weights.sum(axis=1), 5000)
    error = values.std() / math.sqrt(5000)
    assert (found.low, found.high) == pytest.approx(
        (values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.3 * error
    )
    assert found.n == 5000


def test_where_all_agree_no_interval_has_width_zero():
    ties = share(lambda weights: np.full(len(weights), 0.5), 20, 20)
    assert (ties.low, ties.high) == pytest.approx(_wilson_with(0.5, 20, 2.093024), abs=1e-5)
    constant = mean([8.0] * 20, range(20))
    assert (constant.value, constant.interval) == (8.0, None)
    alike = paired_difference([1.0] * 20, [1.0] * 20, range(20), most=1.0)
    assert (alike.low, alike.high) == pytest.approx((-wilson(0, 20).high, wilson(0, 20).high))


def _wilson_with(value, n, z):
    centre, half = value + z**2 / (2 * n), z * math.sqrt(value * (1 - value) / n + z**2 / (4 * n**2))
    return (centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)


def test_a_mean_over_prompts_of_unequal_size_is_sum_over_sum():
    found = ratio([1.0, 2.0, 9.0], [1.0, 1.0, 2.0], ["a", "a", "b"])
    assert found.value == 3.0
    # Off the ratio by -3 and 3 of 4 in all: SE = sqrt(2 * 18) / 4, and Student's quantile of one degree of freedom.
    assert (found.low, found.high) == pytest.approx((3 - 12.70620 * 1.5, 3 + 12.70620 * 1.5), abs=1e-4)


def test_pairing_removes_what_both_methods_share():
    rng = np.random.default_rng(3)
    prompts, shared = np.arange(200), rng.normal(size=200)
    first, second = shared + 0.3 + 0.1 * rng.normal(size=200), shared + 0.1 * rng.normal(size=200)
    paired = paired_difference(first, second, prompts)
    assert paired.excludes(0.0)
    assert paired.high - paired.low < 0.2 * (mean(first, prompts).high - mean(first, prompts).low)


def test_resamples_hold_as_many_prompts_as_there_are_and_follow_the_seed(monkeypatch):
    resampling = Resampling(num_resamples=200, seed=4)
    whole = np.concatenate(list(resampled_weights(7, resampling)))
    assert whole.shape == (200, 7)
    assert (whole.sum(axis=1) == 7).all()
    monkeypatch.setattr("exptilt.evaluation.intervals._CHUNK", 70)
    chunks = list(resampled_weights(7, resampling))
    assert [len(chunk) for chunk in chunks] == [10] * 20
    assert np.array_equal(np.concatenate(chunks), whole)


def test_one_prompt_says_nothing_about_others():
    found = mean([1.0, 3.0], ["a", "a"])
    assert (found.value, found.low, found.high) == (2.0, None, None)
    assert found.as_dict() == {"value": 2.0, "low": None, "high": None, "level": 0.95, "n": 1}
    assert not found.excludes(0.0)


def test_a_statistic_that_is_often_undefined_has_no_interval():
    found = bootstrap(lambda weights: np.where(weights[:, 0] > 0, 1.0, np.nan), 10)
    assert (found.value, found.low, found.high) == (1.0, None, None)


def test_a_statistic_that_is_never_defined_is_undefined_and_leaves_its_neighbours_alone():
    values = np.random.default_rng(10).normal(size=20)
    columns = lambda weights: np.stack([np.full(len(weights), np.nan), weights @ values / 20], axis=1)  # noqa: E731
    undefined, mean_of_all = bootstraps(columns, 20)
    assert (undefined.value, undefined.interval) == (None, None)
    assert mean_of_all.interval == pytest.approx(mean(values, range(20)).interval, rel=0.3)


def test_bad_values_are_named():
    with pytest.raises(ValueError, match=r"values must be finite, but 1 of 3 are not \(the first at \[1\]\)"):
        mean([1.0, float("nan"), 2.0], [0, 1, 2])
    with pytest.raises(ValueError, match="3 values but 2 prompt labels"):
        mean([1.0, 2.0, 3.0], [0, 1])
    with pytest.raises(ValueError, match="non-empty list"):
        Clusters([])


def test_wilson_matches_the_textbook():
    # Brown, Cai and DasGupta's formula with z = 1.959964: 8 of 10.
    found = wilson(8, 10)
    assert (found.low, found.high) == pytest.approx((0.490162, 0.943318), abs=1e-6)
    assert wilson(0, 20).low == 0.0
    assert wilson(0, 20).high == pytest.approx(1.959964**2 / (20 + 1.959964**2), abs=1e-6)
    with pytest.raises(ValueError, match="successes must be in"):
        wilson(3, 2)


def test_what_an_evaluation_can_detect():
    assert prompts_needed(0.10, correlation=0.27) == 287
    assert prompts_needed(0.05, correlation=0.27) == 1146
    assert minimum_detectable_difference(1146, correlation=0.27) == pytest.approx(0.05, abs=1e-5)
    with pytest.raises(ValueError, match="difference must be > 0"):
        prompts_needed(0.0)


def test_the_promised_power_is_reached():
    rng = np.random.default_rng(5)
    prompts, difference = 200, minimum_detectable_difference(200, sd=1.0, correlation=0.5)
    shared = rng.normal(size=(2000, prompts)) * math.sqrt(0.5)
    first = shared + math.sqrt(0.5) * rng.normal(size=(2000, prompts)) + difference
    second = shared + math.sqrt(0.5) * rng.normal(size=(2000, prompts))
    gap = first - second
    found = np.abs(gap.mean(axis=1)) > 1.96 * gap.std(axis=1) / math.sqrt(prompts)
    assert found.mean() == pytest.approx(0.8, abs=0.03)


def test_settings_out_of_range_are_refused():
    for settings, message in (
        ({"level": 1.0}, "level"),
        ({"num_resamples": 10}, "num_resamples"),
        ({"seed": -1}, "seed"),
    ):
        with pytest.raises(ValueError, match=f"{message} must be"):
            Resampling(**settings)


def test_an_estimate_prints_its_interval():
    assert str(Estimate(value=0.5, low=0.25, high=0.75, level=0.9, n=12)) == "0.500 [0.250, 0.750]"
