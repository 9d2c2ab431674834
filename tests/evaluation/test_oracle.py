"""Every estimator of the frontier against the exactly solvable world: estimated against exact within the stated bias."""

from __future__ import annotations

import numpy as np
import pytest

from exptilt.evaluation.frontier.best_of_n import best_of_n
from exptilt.evaluation.frontier.optimum import OptimalFrontier
from exptilt.evaluation.frontier.proxy import proxy_curve
from exptilt.evaluation.intervals import Resampling
from exptilt.evaluation.kl import estimate_kl
from exptilt.sampling.sampling_law import SamplingLaw
from exptilt.testbed import MarkovWorld

HOW = Resampling(num_resamples=200)
WORLD = MarkovWorld()
ROWS, POOL = 150, 64


def drawn(num, policy=None, seed=0):
    """(ROWS, num, ...) samples of a policy; row after row asks the world's prompts in turn."""
    rng = np.random.default_rng(seed)
    prompts = np.repeat(np.arange(ROWS) % WORLD.num_tokens, num)
    return WORLD.sample(len(prompts), rng, policy, prompts)


def rewards_of(samples):
    return WORLD.rewards(samples.tokens).reshape(ROWS, -1)


def logs_of(policy, samples):
    return WORLD.logps(policy, samples).sum(axis=1).reshape(ROWS, -1)


def test_the_frontier_of_reference_samples_is_the_exact_one_less_its_bias():
    frontier = OptimalFrontier.from_samples(rewards_of(drawn(POOL)), betas=[0.3, 0.1], resampling=HOW)
    for beta, share in ((0.3, 0.91), (0.1, 0.66)):  # what a Gaussian reward of the same KL keeps at 64 samples
        at = int(np.argmin(np.abs(frontier.betas - beta)))
        best = WORLD.optimal_policy(beta)
        exact = WORLD.kl(best), WORLD.expected_reward(best)
        assert share * exact[0] < frontier.kl[at] < 1.1 * exact[0]
        assert 0.93 * exact[1] < frontier.reward[at] < 1.05 * exact[1]
    for kl in (0.5, 1.0, frontier.solid_kl):
        exact = WORLD.optimal_reward(kl)
        assert frontier.reward_at(kl).value == pytest.approx(exact, rel=0.06)
        assert frontier.upper_reward_at(kl) > exact


def test_trained_policies_as_proposals_show_what_the_references_samples_cannot():
    strong = WORLD.optimal_policy(0.05)
    exact = WORLD.kl(strong), WORLD.expected_reward(strong)
    own, others = drawn(POOL, seed=1), drawn(POOL // 2, strong, seed=2)
    rewards = np.concatenate([rewards_of(own), rewards_of(others)], axis=1)
    logs = [np.concatenate([logs_of(one, own), logs_of(one, others)], axis=1) for one in (WORLD.reference, strong)]
    pooled = OptimalFrontier.from_mixture(
        rewards, logs[0], logs[1][None], [POOL, POOL // 2], betas=[0.05], resampling=HOW
    )
    alone = OptimalFrontier.from_samples(rewards_of(own), betas=[0.05], resampling=HOW)
    found = [frontier.kl[int(np.argmin(np.abs(frontier.betas - 0.05)))] for frontier in (pooled, alone)]
    assert found[0] == pytest.approx(exact[0], rel=0.05)
    assert abs(found[1] - exact[0]) > 2 * abs(found[0] - exact[0])
    assert pooled.solid_kl > 1.5 * alone.solid_kl
    assert pooled.reward_at(exact[0]).value == pytest.approx(exact[1], rel=0.03)
    assert pooled.reward_at(1.0).value == pytest.approx(WORLD.optimal_reward(1.0), rel=0.06)
    assert pooled.reference_reward.value == pytest.approx(WORLD.expected_reward(WORLD.reference), abs=0.03)


def kl_sums(policy, samples):
    """(n,) sums over the visited states of the KL between the two next-token distributions."""
    steps = (np.exp(policy) * (policy - WORLD.reference)).sum(axis=-1)
    last = np.concatenate([samples.prompts[:, None], samples.tokens[:, :-1]], axis=1)
    gained = np.asarray(WORLD.sentiment)[samples.tokens]
    total = WORLD.totals.tolist().index(0) + gained.cumsum(axis=1) - gained
    return steps[np.arange(WORLD.length)[None, :], last, total].sum(axis=1)


def test_a_policys_kl_share_and_gap_are_the_exact_ones():
    noise = np.random.default_rng(6).normal(size=WORLD.table_shape)
    policy = WORLD.policy_from_logits(WORLD.optimal_policy(0.3) + 0.3 * noise)
    samples, owners = drawn(32, policy, seed=3), np.repeat(np.arange(ROWS), 32)
    log_ratio = (WORLD.logps(policy, samples) - WORLD.logps(WORLD.reference, samples)).sum(axis=1)
    kl = estimate_kl(kl_sums(policy, samples), owners, SamplingLaw(), k1=log_ratio, resampling=HOW)
    exact_kl, exact_reward = WORLD.kl(policy), WORLD.expected_reward(policy)
    assert kl.kl.low < exact_kl < kl.kl.high
    assert kl.k1.low < exact_kl < kl.k1.high
    assert kl.kl.high - kl.kl.low < 0.5 * (kl.k1.high - kl.k1.low)
    frontier = OptimalFrontier.from_samples(rewards_of(drawn(256, seed=7)), resampling=HOW)
    place = frontier.fraction(kl.by_prompt, rewards_of(samples).mean(axis=1))
    start = WORLD.expected_reward(WORLD.reference)
    exact = (exact_reward - start) / (WORLD.optimal_reward(exact_kl) - start)
    assert exact < 0.95
    assert place.reward_fraction.value == pytest.approx(exact, abs=0.03)
    gap = frontier.gap(0.3, kl.by_prompt, rewards_of(samples).mean(axis=1))
    assert gap.value == pytest.approx(0.3 * WORLD.kl(policy, WORLD.optimal_policy(0.3)), abs=0.01)


def test_best_of_n_from_one_pool_is_the_exact_one():
    for found in best_of_n(rewards_of(drawn(POOL, seed=4)), [2, 4, 16], resampling=HOW):
        kl, reward = WORLD.best_of(found.n)
        assert found.reward.low - 0.01 < reward < found.reward.high + 0.01
        assert kl <= found.bound


def test_the_proxy_that_is_an_optimums_own_log_ratio_is_over_optimised_nowhere():
    """log pi*/pi_ref is r / beta up to a constant, so tilting by it walks along the optimum itself."""
    samples = drawn(POOL, seed=5)
    best = WORLD.optimal_policy(0.2)
    ratio = logs_of(best, samples) - logs_of(WORLD.reference, samples)
    curve = proxy_curve(ratio, rewards_of(samples), resampling=HOW)
    assert curve.best_kl == curve.kl[-1]
    for kl, gold in zip(curve.kl, curve.gold, strict=True):
        if 0.2 < kl < curve.solid_kl:
            assert gold.value == pytest.approx(WORLD.optimal_reward(kl), rel=0.06)
