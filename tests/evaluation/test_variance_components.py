import numpy as np
import pytest

from exptilt.evaluation.variance_components import variance_components


def test_components_by_hand():
    # Rows 1, 2, 3 and 2, 3, 4: MS of seeds 3 * 0.5 = 1.5, of prompts 2 * 1 = 2, of the rest 0.
    found = variance_components([[1.0, 2.0, 3.0], [2.0, 3.0, 4.0]])
    assert found.sd_of_seeds == pytest.approx((1.5 / 3) ** 0.5)
    assert found.error_of_prompts == pytest.approx((2 / 2 / 3) ** 0.5)
    # Var = 3.5 / 6 with 3.5^2 / (1.5^2 / 1 + 2^2 / 2) = 2.882 degrees of freedom, whose quantile is 3.2596.
    assert found.mean.high - found.mean.value == pytest.approx(3.2596 * (3.5 / 6) ** 0.5, rel=2e-3)


def test_the_interval_covers_other_seeds_and_other_prompts_and_one_over_prompts_does_not():
    rng, both, prompts_only = np.random.default_rng(0), 0, 0
    for _ in range(300):
        values = rng.normal(size=(4, 1)) * 0.3 + rng.normal(size=(1, 60)) + 0.5 * rng.normal(size=(4, 60))
        found = variance_components(values)
        both += not found.mean.excludes(0.0)
        prompts_only += abs(values[0].mean()) < 2.0 * values[0].std(ddof=1) / 60**0.5
    assert 0.91 <= both / 300 <= 0.985
    assert prompts_only / 300 < 0.75


def test_runs_that_do_not_differ_have_no_spread_of_seeds():
    row = np.random.default_rng(1).normal(size=20)
    found = variance_components([row, row, row])
    assert found.sd_of_seeds == 0.0
    assert found.error_of_prompts == pytest.approx(row.std(ddof=1) / 20**0.5)


def test_one_seed_is_refused():
    with pytest.raises(ValueError, match="at least 2 of each"):
        variance_components([[1.0, 2.0]])
