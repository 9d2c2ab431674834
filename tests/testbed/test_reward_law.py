from __future__ import annotations

import itertools

import numpy as np
import pytest

from exptilt.testbed.reward_law import RewardLaw, check_probabilities, relative_entropy


def test_equal_rewards_are_merged_and_impossible_ones_left_out() -> None:
    law = RewardLaw.of(np.array([2.0, 0.0, 2.0, 5.0]), np.array([0.3, 0.5, 0.2, 0.0]))
    assert law.rewards.tolist() == [0.0, 2.0]
    assert law.probabilities.tolist() == [0.5, 0.5]


def test_best_of_is_what_listing_every_draw_gives() -> None:
    rewards, probabilities = np.array([0.0, 1.0, 3.0]), np.array([0.6, 0.3, 0.1])
    law = RewardLaw.of(rewards, probabilities)
    listed = np.zeros(3)
    for draw in itertools.product(range(3), repeat=4):
        listed[max(draw)] += np.prod(probabilities[list(draw)])
    assert law.best_of(4).probabilities == pytest.approx(listed, abs=1e-14)
    assert law.best_of(4).mean == pytest.approx(listed @ rewards, abs=1e-14)


def test_best_of_kl_of_a_peaked_law_agrees_with_published_numbers() -> None:
    # reference .6/.3/.1: .121 for two draws, 2.292 for 64, both below log n - (n - 1) / n
    law = RewardLaw.of(np.array([0.0, 1.0, 2.0]), np.array([0.6, 0.3, 0.1]))
    assert law.best_of_kl(2) == pytest.approx(0.121, abs=5e-4)
    assert law.best_of_kl(64) == pytest.approx(2.292, abs=5e-4)


def test_best_of_kl_reaches_its_bound_without_ties() -> None:
    law = RewardLaw.of(np.arange(200_000.0), np.full(200_000, 1 / 200_000))
    for num in (1, 2, 16):
        assert law.best_of_kl(num) == pytest.approx(np.log(num) - (num - 1) / num, abs=1e-4)


def test_best_of_refuses_none() -> None:
    with pytest.raises(ValueError, match="n >= 1, got 0"):
        RewardLaw.of(np.array([1.0]), np.array([1.0])).best_of(0)


def test_relative_entropy_at_the_edges() -> None:
    with np.errstate(divide="ignore"):
        p, q = np.log(np.array([0.0, 0.0, 0.5, 0.5])), np.log(np.array([0.0, 0.3, 0.0, 0.25]))
    terms = relative_entropy(p, q)
    assert terms[:2].tolist() == [0.0, 0.0]
    assert terms[2] == np.inf
    assert terms[3] == pytest.approx(0.5 * np.log(2))


@pytest.mark.parametrize("rows", [[0.5, 0.6], [1.5, -0.5], [np.nan, 1.0]])
def test_what_is_no_distribution_is_refused(rows: list[float]) -> None:
    with pytest.raises(ValueError, match="prompts must be probabilities"):
        check_probabilities("prompts", np.array(rows))
