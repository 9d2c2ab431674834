"""Position bias, bounds and consistency: hand-computed and simulated."""

import numpy as np
import pytest

from exptilt.evaluation.intervals import Resampling
from exptilt.evaluation.judged.judgements import Judgements
from exptilt.evaluation.judged.win_rate import by_length_gap, win_rates

QUICK = Resampling(num_resamples=200)


def sigma(x):
    return 1 / (1 + np.exp(-x))


def simulated(prompts, delta, slot, rng, gap=None):
    first = np.tile([True, False], prompts)
    chance = sigma(delta + np.where(first, slot, -slot) + (0 if gap is None else gap))
    return Judgements(np.repeat(np.arange(prompts), 2), (rng.random(2 * prompts) < chance).astype(float), first)


def test_position_bias_of_a_judge_that_leans_to_the_first_slot():
    found = win_rates(
        simulated(30_000, delta=0.5, slot=1.0, rng=np.random.default_rng(0)), Resampling(num_resamples=100)
    )
    assert found.shown_first.value == pytest.approx(0.818, abs=0.008)
    assert found.swap_average.value == pytest.approx(0.598, abs=0.008)
    assert found.without_inconsistent.value == pytest.approx(0.732, abs=0.008)
    assert found.slot_corrected.value == pytest.approx(0.622, abs=0.008)


def test_hand_computed_table():
    #           p: A wins both   q: first slot wins both   r: tie, loses   s: unscored, wins
    wins = [1, 1, 1, 0, 0.5, 0, np.nan, 1]
    asked = Judgements(list("ppqqrrss"), wins, [True, False] * 4)
    found = win_rates(asked, QUICK)
    assert found.swap_average is None  # one of eight is missing: more than 5 %
    assert (found.unscored, found.verdicts) == (1, 8)
    assert found.lower_bound.value == pytest.approx(4.5 / 8)
    assert found.upper_bound.value == pytest.approx(5.5 / 8)
    assert found.ties.value == pytest.approx(1 / 7)
    assert found.consistent.value == pytest.approx(1 / 3)  # of p, q and r


def test_from_the_other_side_every_rate_is_one_minus_itself():
    asked = simulated(50, 0.3, 0.5, np.random.default_rng(3))
    mine, theirs = win_rates(asked, QUICK), win_rates(asked.swapped(), QUICK)
    for name in ("swap_average", "slot_corrected", "without_inconsistent"):
        one, other = getattr(mine, name), getattr(theirs, name)
        assert one.value + other.value == pytest.approx(1)
        assert one.low + other.high == pytest.approx(1)


def test_a_judge_that_always_says_the_first_prefers_nobody():
    first = np.tile([True, False], 40)
    found = win_rates(Judgements(np.repeat(np.arange(40), 2), first.astype(float), first), QUICK)
    assert found.swap_average.value == 0.5
    assert found.slot_corrected.value == pytest.approx(0.5)
    assert found.consistent.value == 0
    assert found.without_inconsistent is None


def test_one_order_alone_has_no_slot_correction():
    found = win_rates(Judgements([1, 2, 3], [1, 1, 0], [True] * 3), QUICK)
    assert found.swap_average.value == pytest.approx(2 / 3)
    assert found.slot_corrected is None
    assert found.shown_second is None


def test_coverage_of_the_swap_average_and_the_slot_corrected_rate():
    rng, held = np.random.default_rng(5), np.zeros(2)
    truths = ((sigma(1.5) + sigma(-0.5)) / 2, sigma(0.5))
    for _ in range(300):
        found = win_rates(simulated(200, 0.5, 1.0, rng), QUICK)
        for k, (rate, truth) in enumerate(zip((found.swap_average, found.slot_corrected), truths, strict=True)):
            held[k] += rate.low <= truth <= rate.high
    assert (np.abs(held / 300 - 0.95) < 0.035).all(), held / 300  # 0.95 +- 2.8 standard errors


def test_by_length_gap():
    asked = Judgements(range(6), [0, 0, 1, 0, 1, 1], [True] * 6, [-10, -10, 0, 0, 10, 10])
    assert [rate.value for _, rate in by_length_gap(asked, resampling=QUICK)] == [0, 0.5, 1]


@pytest.mark.parametrize("wins", [[1.2], [-0.1]])
def test_a_rate_outside_its_range_is_refused(wins):
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        Judgements(["p"], wins, [True])


def test_probabilities_are_worth_more_than_coins_and_their_intervals_still_hold():
    rng, held, widths, errors = np.random.default_rng(9), 0, [], []
    draws = np.random.default_rng(0).normal(0.4, 0.5, 400_000)
    truth = (sigma(draws + 0.6).mean() + sigma(draws - 0.6).mean()) / 2
    for _ in range(300):
        first = np.tile([True, False], 60)
        wins = sigma(np.repeat(rng.normal(0.4, 0.5, 60), 2) + np.where(first, 0.6, -0.6))
        rate = win_rates(Judgements(np.repeat(np.arange(60), 2), wins, first), QUICK).swap_average
        held += rate.low <= truth <= rate.high
        widths.append(rate.high - rate.low)
        errors.append(rate.value)
    assert held / 300 == pytest.approx(0.95, abs=0.035)
    assert np.mean(widths) == pytest.approx(
        2 * 2.0 * np.std(errors), rel=0.1
    )  # as coins they would be four times as wide


def test_hard_verdicts_are_never_worth_more_than_their_number():
    first = np.tile([True, False], 10)
    rate = win_rates(Judgements(np.repeat(np.arange(10), 2), first.astype(float), first), QUICK).swap_average
    assert (rate.low, rate.high) != (0.5, 0.5)
    assert rate.high - rate.low > 0.3  # a judge that always takes the first has seen ten prompts, no more
