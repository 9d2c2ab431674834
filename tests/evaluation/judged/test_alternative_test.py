"""The Alt-Test: a hand-computed p-value, and judges that must pass and must not."""

import numpy as np
import pytest
from scipy.stats import t

from exptilt.evaluation.judged.alternative_test import alternative_test


def people(items, raters, accuracy, rng):
    truth = rng.integers(2, size=items)
    return truth, np.where(rng.random((items, raters)) < accuracy, truth[:, None], 1 - truth[:, None]).astype(float)


def test_hand_computed():
    # Three people agree on everything; the judge is wrong on 8 of 40 items, so d = 1 on those and 0 elsewhere.
    table = np.zeros((40, 3))
    judge = np.repeat([1.0, 0.0], [8, 32])
    found = alternative_test(judge, table, epsilon=0.1)
    error = np.std(judge, ddof=1) / np.sqrt(40)
    raw = t.cdf((0.2 - 0.1) / error, 39)
    assert found.p_values == pytest.approx([min(1, raw * (1 + 1 / 2 + 1 / 3))] * 3)
    assert found.advantage == pytest.approx(0.8)
    assert not found.passes


def test_a_better_judge_passes_a_coin_does_not():
    truth, table = people(400, 4, 0.75, np.random.default_rng(0))
    assert alternative_test(truth.astype(float), table, epsilon=0.1).winning_rate == 1
    coin = np.random.default_rng(1).integers(2, size=400).astype(float)
    assert not alternative_test(coin, table, epsilon=0.1).passes


def test_two_people_or_too_few_items_give_no_test():
    _, table = people(100, 3, 0.8, np.random.default_rng(0))
    assert alternative_test(table[:, 0], table[:, :2]) is None
    assert alternative_test(table[:20, 0], table[:20]) is None
