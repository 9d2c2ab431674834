from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from exptilt.rewards.preferred_pairs import PairRule, ranks_of

REWARDS = np.array([1.0, 4.0, np.nan, 2.0, 4.0])


def found(rule: PairRule, rewards=REWARDS, sides=None, seed=0):
    left_out: Counter[str] = Counter()
    pairs = list(rule.pairs(rewards, np.random.default_rng(seed), left_out, sides))
    return [(pair.chosen, pair.rejected) for pair in pairs], pairs, left_out


@pytest.mark.parametrize(
    ("which", "expected", "ties"),
    [
        ("best_worst", [(1, 0)], 0),
        ("all", [(1, 0), (3, 0), (4, 0), (1, 3), (4, 3)], 1),
        ("adjacent", [(4, 3), (3, 0)], 1),
        ("first_rest", [(1, 0), (3, 0), (4, 0)], 0),
        ("neighbours", [(1, 0)], 0),  # the third is unscored, so the fourth has nobody, and the fifth is alone
    ],
)
def test_who_is_compared(which, expected, ties):
    names, _, left_out = found(PairRule(which=which))
    assert names == expected
    assert left_out["ties"] == ties


def test_two_sides_are_compared_by_number():
    names, _, _ = found(PairRule(which="across"), np.array([1.0, 5.0, 2.0, 3.0]), [0, 0, 1, 1])
    assert names == [(2, 0), (1, 3)]


def test_a_kept_tie_is_one_half_and_a_small_margin_is_left_out():
    _, pairs, left_out = found(PairRule(which="all", keep_ties=True, min_margin=2.5))
    assert [(pair.margin, pair.p_chosen) for pair in pairs] == [(3.0, 1.0), (3.0, 1.0), (0.0, 0.5)]
    assert left_out == {"a smaller margin than min_margin": 3}


def test_soft_labels_are_bradley_terry_of_the_scaled_margin():
    _, (pair,), _ = found(PairRule(label="soft", scale=0.5), np.array([0.0, 2.0]))
    assert pair.p_chosen == pytest.approx(1 / (1 + np.exp(-1.0)))


def test_the_coin_falls_as_often_as_bradley_terry_says():
    rule, rng = PairRule(label="coin", scale=2.0), np.random.default_rng(0)
    count = 4000
    wins = sum(next(rule.pairs(np.array([0.5, 0.0]), rng, Counter())).chosen == 0 for _ in range(count))
    expected = 1 / (1 + np.exp(-1.0))
    assert abs(wins / count - expected) < 4 * np.sqrt(expected * (1 - expected) / count)


def test_equal_rewards_share_the_best_rank():
    assert ranks_of(np.array([2.0, 5.0, 5.0, 1.0])) == [3, 1, 1, 4]
