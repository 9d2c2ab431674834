"""Length control: antisymmetry, equal models, coverage against a simulated truth."""

import numpy as np
import pytest

from exptilt.evaluation.intervals import Resampling
from exptilt.evaluation.judged.judgements import Judgements
from exptilt.evaluation.judged.length_controlled import length_controlled, length_controlled_together

QUICK = Resampling(num_resamples=200)


def simulated(prompts, theta, rng, slope=1.5, shift=0.7, slot=0.6):
    gap = np.repeat(rng.normal(shift, 1.0, prompts), 2)
    first = np.tile([True, False], prompts)
    z = theta + np.where(first, slot, -slot) + slope * np.tanh(gap / np.sqrt(1 + shift**2))
    wins = (rng.random(2 * prompts) < 1 / (1 + np.exp(-z))).astype(float)
    return Judgements(np.repeat(np.arange(prompts), 2), wins, first, gap)


def test_equal_models_of_different_lengths_get_one_half():
    found = length_controlled(simulated(20_000, 0.0, np.random.default_rng(1)), Resampling(num_resamples=100))
    assert found.win_rate.value == pytest.approx(0.5, abs=0.02)  # style control of the field says .598
    assert found.slope.value == pytest.approx(1.5, abs=0.1)
    assert found.slot.value == pytest.approx(0.6, abs=0.05)


def test_seen_from_the_other_side_it_is_one_minus_itself():
    asked = simulated(100, 0.4, np.random.default_rng(2))
    mine, theirs = length_controlled(asked, QUICK), length_controlled(asked.swapped(), QUICK)
    assert mine.win_rate.value + theirs.win_rate.value == pytest.approx(1, abs=1e-9)
    assert mine.win_rate.low + theirs.win_rate.high == pytest.approx(1, abs=1e-9)
    assert mine.slope.value == pytest.approx(theirs.slope.value)


def test_the_interval_covers():
    rng, held = np.random.default_rng(7), 0
    truth = (1 / (1 + np.exp(-1.0)) + 1 / (1 + np.exp(0.2))) / 2  # theta .4, slot .6
    for _ in range(200):
        found = length_controlled(simulated(150, 0.4, rng), QUICK).win_rate
        held += found.low <= truth <= found.high
    assert held / 200 == pytest.approx(0.95, abs=0.04)


def test_one_gap_for_all_tells_nothing_and_a_clean_sweep_stays_finite():
    assert length_controlled(Judgements(range(4), [1, 0, 1, 0], [True] * 4, [5.0] * 4), QUICK) is None
    swept = length_controlled(Judgements(range(8), [1.0] * 8, [True, False] * 4, np.arange(8.0)), QUICK)
    assert 0.5 < swept.win_rate.value < 1


def test_several_policies_share_a_slope_a_little():
    rng = np.random.default_rng(0)
    policies = {"few": simulated(12, 0.2, rng, slope=5), "many": simulated(400, 0.2, rng, slope=1)}
    alone = {name: length_controlled(asked, QUICK).slope.value for name, asked in policies.items()}
    together = {name: found.slope.value for name, found in length_controlled_together(policies, QUICK).items()}
    middle = np.mean(list(alone.values()))
    assert abs(together["few"] - middle) < abs(alone["few"] - middle)
    assert together["many"] == pytest.approx(alone["many"], abs=0.3)
