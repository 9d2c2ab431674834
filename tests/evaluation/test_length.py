import numpy as np
import pytest

from exptilt.evaluation.intervals import Resampling
from exptilt.evaluation.length import length_change, pair_lengths, reward_on_length, sample_lengths

HOW = Resampling(num_resamples=300)


def test_lengths_of_preferences_are_compared_pair_by_pair():
    rng = np.random.default_rng(0)
    rejected = rng.integers(10, 200, size=300)
    found = pair_lengths(rejected + rng.integers(0, 6, size=300), rejected, range(300), HOW)
    assert found.difference.value == pytest.approx(found.chosen.value - found.rejected.value)
    assert found.difference.low > 2
    assert not found.chosen.excludes(found.rejected.value)
    assert 0.85 < found.chosen_longer.value < 0.97


def test_the_share_that_ended_by_itself_has_a_width_at_one():
    found = sample_lengths([3, 4], [True, True], ["a", "b"], HOW)
    assert (found.ended.value, found.ended.high) == (1.0, 1.0)
    assert found.ended.low < 0.4
    cut = sample_lengths([8, 8, 8], [False] * 3, ["a", "b", "c"], HOW)
    assert cut.mean_of_ended is None
    assert cut.as_dict()["mean_of_ended"] is None
    assert (cut.ended.value, cut.mean.value) == (0.0, 8.0)
    with pytest.raises(ValueError, match="ended must have one entry for each of 2 samples"):
        sample_lengths([3, 4], [True], ["a", "b"], HOW)


def test_change_of_length_is_paired_by_prompt_whatever_the_order():
    found = length_change([10, 20, 40], [32, 11, 45], ["a", "a", "b"], ["b", "a", "b"], HOW)
    # Prompt a: 15 -> 11; prompt b: 40 -> 38.5.
    assert found.value == pytest.approx((-4 - 1.5) / 2)
    with pytest.raises(ValueError, match="of different prompts"):
        length_change([1.0], [1.0], ["a"], ["b"], HOW)


def test_the_slope_of_the_reward_on_length_is_least_squares():
    rng = np.random.default_rng(1)
    lengths = rng.integers(5, 60, size=400)
    rewards = 0.02 * lengths + rng.normal(0, 0.3, size=400)
    found = reward_on_length(rewards, lengths, np.repeat(range(100), 4), HOW)
    slope, _ = np.polyfit(lengths, rewards, 1)
    assert found.slope.value == pytest.approx(slope)
    assert found.r_squared.value == pytest.approx(np.corrcoef(lengths, rewards)[0, 1] ** 2)
    centred = lengths - lengths.mean()
    error = np.sqrt(((rewards - np.polyval(np.polyfit(lengths, rewards, 1), lengths)) ** 2).mean() / (centred**2).sum())
    assert found.slope.high - found.slope.low == pytest.approx(2 * 1.96 * error, rel=0.2)
    assert found.slope.low > 0
    with pytest.raises(ValueError, match="all completions have 7 tokens"):
        reward_on_length([1.0, 2.0], [7, 7], ["a", "b"], HOW)


def test_a_far_offset_does_not_cost_digits():
    lengths = np.array([1, 2, 3, 4]) + 10_000_000
    found = reward_on_length(np.array([1.0, 2.0, 3.0, 4.0]) - 1e6, lengths, range(4), HOW)
    assert found.slope.value == pytest.approx(1.0)
