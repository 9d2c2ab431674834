import math

import numpy as np
import pytest
from scipy.special import logsumexp

from exptilt.evaluation.frontier.tilting import (
    beta_grid,
    binary_kl,
    binary_optimum,
    binary_reward_at,
    checked_rewards,
    mixture_log_base,
    strongest_tilt,
    tilt,
)

RNG = np.random.default_rng(0)


def test_kl_is_log_m_less_the_entropy_of_the_weights():
    rewards = RNG.normal(size=(50, 64))
    for beta in (0.05, 0.3, 2.0):
        found = tilt(rewards, np.array([beta]))
        weights = np.exp(rewards / beta - logsumexp(rewards / beta, axis=1, keepdims=True))
        entropy = -(weights * np.log(np.where(weights > 0, weights, 1))).sum(axis=1)
        assert np.abs(found.kl[:, 0] - (math.log(64) - entropy)).max() < 1e-12
        assert np.abs(found.concentration - found.kl).max() < 1e-12
        assert found.kl.max() <= math.log(64)


SNIS = {
    0.5: {16: 0.415, 64: 0.472, 256: 0.493, 1024: 0.495, 16384: 0.500},
    1.0: {16: 0.72, 64: 0.89, 256: 0.96, 1024: 0.99, 16384: 1.00},
    2.0: {16: 1.13, 64: 1.54, 256: 1.74, 1024: 1.91, 16384: 2.00},
    4.0: {16: 1.56, 64: 2.21, 256: 2.84, 1024: 3.18, 16384: 3.84},
    8.0: {16: 1.92, 64: 2.84, 256: 3.80, 1024: 4.67, 16384: 5.99},
}
"""Mean estimate of the KL of a Gaussian reward's optimum, by true KL and number of samples; from an independent run."""
PROMPTS = {16: 20_000, 64: 6_000, 256: 2_000, 1024: 600, 16384: 60}


@pytest.mark.parametrize("num_samples", PROMPTS)
def test_the_bias_of_the_estimated_kl_of_a_gaussian_reward_is_the_known_one(num_samples):
    true = np.array(list(SNIS))
    rewards = np.random.default_rng(1).normal(size=(PROMPTS[num_samples], num_samples))
    found = tilt(rewards, 1 / np.sqrt(2 * true))
    expected = np.array([row[num_samples] for row in SNIS.values()])
    noise = found.kl.std(axis=0) / math.sqrt(len(rewards))
    # The table's own run was finite, too, and is rounded: it gets the noise of a run of 200 prompts.
    theirs = found.kl.std(axis=0) / math.sqrt(200) + 0.005
    assert (np.abs(found.kl.mean(axis=0) - expected) < 4 * np.hypot(noise, theirs)).all()
    assert (found.value.mean(axis=0) < np.sqrt(2 * true) + 4 * found.value.std(axis=0) / math.sqrt(len(rewards))).all()
    assert (found.kl.mean(axis=0)[true > 3] < true[true > 3]).all()


def test_effective_samples_run_from_all_to_one():
    rewards = RNG.normal(size=(20, 32))
    ess = tilt(rewards, np.array([1e6, 1e-6])).ess
    assert ess[:, 0] == pytest.approx(32)
    assert ess[:, 1] == pytest.approx(1)


def test_the_strongest_tilt_is_the_limit_of_small_beta():
    rewards = RNG.integers(0, 4, size=(30, 20)).astype(float)
    base = np.log(RNG.dirichlet(np.ones(20), size=30))
    limit, near = strongest_tilt(rewards, base), tilt(rewards, np.array([1e-3]), base)
    for name in ("value", "kl", "ess", "concentration"):
        assert getattr(limit, name) == pytest.approx(getattr(near, name), abs=1e-9)


def test_the_grid_runs_from_the_reference_to_the_ceiling():
    rewards = RNG.normal(size=(40, 64)) * 7
    betas = beta_grid(rewards, np.full_like(rewards, -math.log(64)))
    kl = tilt(rewards, betas).kl.mean(axis=0)
    assert kl[0] == pytest.approx(1e-4, rel=0.02)
    assert kl[-1] > 0.9 * math.log(64)
    assert (np.diff(betas) < 0).all()


def test_binary_rewards_have_a_closed_form():
    assert float(binary_kl(0.9, 0.5)) == pytest.approx(0.368, abs=5e-4)
    assert float(binary_kl(0.99, 0.5)) == pytest.approx(0.637, abs=5e-4)
    assert float(binary_kl(1.0, 0.5)) == pytest.approx(math.log(2))
    kl, reward = binary_optimum([0.2, 0.7], beta=0.4)
    exact = tilt(np.array([[0.0, 1.0], [0.0, 1.0]]), np.array([0.4]), np.log([[0.8, 0.2], [0.3, 0.7]]))
    assert (kl, reward) == pytest.approx((exact.kl.mean(), exact.value.mean()))
    assert binary_reward_at([0.2, 0.7], kl) == pytest.approx(reward, abs=1e-9)
    assert binary_reward_at([0.5], 0.37) == pytest.approx(0.901, abs=1e-3)
    assert binary_reward_at([0.5], 5.0) == 1.0
    assert binary_reward_at([0.5], 0.0) == pytest.approx(0.5)
    assert binary_reward_at([0.0, 1.0], 1.0) == pytest.approx(0.5)


def test_pooled_samples_stand_for_the_reference():
    # With every completion in the pool as often as each law draws it, the base weights restore the reference exactly.
    reference, policy = np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.25, 0.5])
    pool = np.array([0, 0, 1, 2, 0, 1, 2, 2])
    logs = np.log(reference)[pool][None], np.log(policy)[pool][None, None]
    base = np.exp(mixture_log_base(*logs, counts=[4, 4]))[0]
    assert np.bincount(pool, weights=base) == pytest.approx(reference)


def test_a_policy_that_gave_no_samples_does_not_count():
    logs = RNG.normal(size=(2, 5, 8))
    with_it = mixture_log_base(logs[0], np.stack([logs[1], logs[0] * 3]), counts=[4, 4, 0])
    assert with_it == pytest.approx(mixture_log_base(logs[0], logs[1:2], counts=[4, 4]))


def test_a_pool_needs_the_references_own_samples():
    logs = np.zeros((3, 8))
    with pytest.raises(ValueError, match="the pool must hold samples of the reference itself"):
        mixture_log_base(logs, logs[None], counts=[0, 8])
    with pytest.raises(ValueError, match=r"counts must hold 2 numbers \(reference first\) that sum to 8, got \[4, 3\]"):
        mixture_log_base(logs, logs[None], counts=[4, 3])
    with pytest.raises(ValueError, match="log_policies must have shape"):
        mixture_log_base(logs, logs, counts=[4, 4])


def test_rewards_that_make_no_frontier_are_refused_with_the_reason():
    good = np.ones((2, 8))
    broken = good.copy()
    broken[1, 3] = np.inf
    for rewards, reason in (
        (broken, r"rewards \(prompt, sample\) must be finite, but 1 of 16 are not \(the first at \[1, 3\]\)"),
        (np.ones((5, 1)), "1 samples for each prompt are too few"),
        ([[1.0, 2.0], []], "each prompt needs the same number of samples"),
        (np.ones((0, 8)), "X prompts with M samples each"),
        (np.ones(8), "must have shape"),
    ):
        with pytest.raises(ValueError, match=reason):
            checked_rewards(rewards)
    with pytest.raises(ValueError, match="does not vary within any prompt"):
        beta_grid(np.array([[1.0] * 8, [2.0] * 8]), np.full((2, 8), -math.log(8)))
    with pytest.raises(ValueError, match="kl must be >= 0"):
        binary_reward_at([0.5], -1.0)
    with pytest.raises(ValueError, match="need beta > 0"):
        binary_optimum([1.2], 1.0)
