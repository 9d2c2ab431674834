import json
import math

import numpy as np
import pytest
from scipy.special import rel_entr, softmax

from exptilt.evaluation.frontier.comparable import Provenance
from exptilt.evaluation.frontier.optimum import OptimalFrontier
from exptilt.evaluation.frontier.tilting import binary_reward_at
from exptilt.evaluation.intervals import Resampling
from exptilt.sampling.sampling_law import SamplingLaw

HOW = Resampling(num_resamples=300)


def world(num_prompts=40, num_completions=60, seed=0):
    rng = np.random.default_rng(seed)
    law = softmax(rng.normal(size=(num_prompts, num_completions)) * 1.5, axis=1)
    return rng.normal(size=law.shape), law


def optimum(rewards, law, beta):
    tilted = law * np.exp(rewards / beta)
    return tilted / tilted.sum(axis=1, keepdims=True)


def divergence(policy, law):
    return rel_entr(policy, law).sum(axis=1)


def test_the_slope_of_the_frontier_is_beta():
    frontier = OptimalFrontier.from_law(*world())
    slopes = np.diff(frontier.reward) / np.diff(frontier.kl)
    between = np.sqrt(frontier.betas[1:] * frontier.betas[:-1])
    assert slopes[:100] == pytest.approx(between[:100], rel=1e-3)
    sampled = OptimalFrontier.from_samples(world()[0])
    slopes = np.diff(sampled.reward) / np.diff(sampled.kl)
    assert slopes[:100] == pytest.approx(np.sqrt(sampled.betas[1:] * sampled.betas[:-1])[:100], rel=1e-3)


def test_the_optimum_itself_gets_full_marks_and_others_less():
    rewards, law = world()
    frontier = OptimalFrontier.from_law(rewards, law, resampling=HOW)
    best = optimum(rewards, law, 0.7)
    found = frontier.fraction(divergence(best, law), (best * rewards).sum(axis=1))
    assert found.reward_fraction.value == pytest.approx(1, abs=1e-4)
    assert found.kl_fraction.value == pytest.approx(1, abs=1e-4)
    assert found.excess.value == pytest.approx(0, abs=1e-4)
    assert found.solid
    assert found.notes == ()
    assert frontier.beta_at(divergence(best, law).mean()) == pytest.approx(0.7, rel=1e-3)
    noisy = optimum(rewards + np.random.default_rng(1).normal(size=rewards.shape), law, 0.7)
    kl, reward = divergence(noisy, law), (noisy * rewards).sum(axis=1)
    worse = frontier.fraction(kl, reward)
    # By hand: the betas at which the exact optimum has this KL, and this reward, found by bisection.
    assert worse.optimal_reward.value == pytest.approx(_exact_reward_at(rewards, law, kl.mean()), abs=1e-4)
    start = (law * rewards).sum(axis=1).mean()
    assert worse.reward_fraction.value == pytest.approx(
        (reward.mean() - start) / (_exact_reward_at(rewards, law, kl.mean()) - start), abs=1e-4
    )
    assert worse.kl_fraction.value < worse.reward_fraction.value < 0.9
    assert worse.reward_fraction.low < worse.reward_fraction.value < worse.reward_fraction.high


def _exact_reward_at(rewards, law, kl):
    low, high = 1e-2, 1e3
    for _ in range(200):
        beta = math.sqrt(low * high)
        low, high = (low, beta) if divergence(optimum(rewards, law, beta), law).mean() < kl else (beta, high)
    return (optimum(rewards, law, beta) * rewards).sum(axis=1).mean()


def test_the_objectives_gap_is_beta_times_the_kl_to_the_optimum():
    rewards, law = world()
    frontier = OptimalFrontier.from_law(rewards, law, resampling=HOW)
    policy = optimum(rewards + np.random.default_rng(2).normal(size=rewards.shape), law, 0.4)
    kl, reward = divergence(policy, law), (policy * rewards).sum(axis=1)
    gap = frontier.gap(0.7, kl, reward)
    best = optimum(rewards, law, 0.7)
    assert gap.value == pytest.approx(0.7 * divergence(policy, best).mean(), abs=1e-10)
    objective = (best * rewards).sum(axis=1).mean() - 0.7 * divergence(best, law).mean()
    assert gap.value == pytest.approx(objective - (reward.mean() - 0.7 * kl.mean()), abs=1e-10)
    own = frontier.gap(0.7, divergence(best, law), (best * rewards).sum(axis=1))
    assert own.value == pytest.approx(0, abs=1e-12)


def test_a_gaussian_reward_is_corrected_and_far_out_its_interval_still_holds_the_truth():
    # R*(k) = sqrt(2 k) for a standard normal reward; uncorrected the samples show .979, .964, .923 and .852 of it.
    rewards = np.random.default_rng(3).normal(size=(1500, 64))
    frontier = OptimalFrontier.from_samples(rewards, resampling=HOW)
    for share, seen, corrected in (
        (0.22, 0.979, 1.0),
        (0.36, 0.964, 0.995),
        (0.61, 0.923, 0.978),
        (0.89, 0.852, 0.946),
    ):
        kl = share * math.log(64)
        estimate, true = frontier.reward_at(kl), math.sqrt(2 * kl)
        shown = frontier.samples.curves(np.ones((1, 1500))).reward_at(np.array([kl]))[0]
        assert shown / true == pytest.approx(seen, abs=0.012)
        assert estimate.value / true == pytest.approx(corrected, abs=0.012)
        assert estimate.low < true < estimate.high
        assert true < frontier.upper_reward_at(kl) < 1.1 * true
    assert frontier.limit_kl == pytest.approx(0.9 * math.log(64), abs=1e-3)


def test_the_gap_of_the_objective_is_not_low():
    # N(1, 1) against N(2, 1), the optimum of beta = 1/2 over N(0, 1): beta * KL = 0.25. Uncorrected, log Z is low.
    covered, seen, removed = 0, [], []
    for seed in range(25):
        rng = np.random.default_rng(seed)
        frontier = OptimalFrontier.from_samples(
            rng.normal(size=(50, 64)), resampling=Resampling(num_resamples=100, seed=seed)
        )
        gap = frontier.gap(0.5, np.full(50, 0.5), 1 + rng.normal(size=50) / 4)
        covered += not gap.excludes(0.25)
        seen.append(gap.value)
        corrected, plain = (frontier.samples.log_partition(0.5, times).mean() for times in (1.0, 0.0))
        removed.append(0.5 * (corrected - plain))
    assert covered >= 22
    bias = 0.25 - np.mean(seen)
    assert 0 < bias < 0.6 * (bias + np.mean(removed))  # what is left, of what there was


def test_the_trustworthy_part_ends_at_a_share_of_log_m():
    # Half the samples tie for the best reward, so the effective number of samples stays high.
    rewards = np.maximum(np.random.default_rng(3).normal(size=(500, 64)), 0) ** 0.1
    frontier = OptimalFrontier.from_samples(rewards, resampling=HOW)
    assert frontier.solid_kl == pytest.approx(0.35 * math.log(64), abs=1e-3)


def test_the_trustworthy_part_ends_where_few_samples_carry_the_weight():
    rewards = np.random.default_rng(3).normal(size=(500, 16))
    frontier = OptimalFrontier.from_samples(rewards, resampling=HOW)
    ess = np.median(frontier.samples.tilts.ess, axis=0)
    assert frontier.solid_kl < 0.35 * math.log(16)
    assert ess[frontier.kl <= frontier.solid_kl].min() >= 10
    assert ess[np.searchsorted(frontier.kl, frontier.solid_kl, side="right")] < 10


def test_nothing_is_extrapolated():
    frontier = OptimalFrontier.from_samples(np.random.default_rng(4).normal(size=(50, 64)), resampling=HOW)
    with pytest.raises(ValueError, match=r"a KL of 5 nats is outside \[0, 3.74\]"):
        frontier.reward_at(5.0)
    with pytest.raises(ValueError, match="a reward of 9 is above"):
        frontier.kl_at(9.0)
    far = frontier.fraction(5.0, 1.0)
    assert far.reward_fraction is None
    assert far.excess is None
    assert 0 < far.kl_fraction.value < 0.2
    assert far.notes == ("its KL of 5 nats is beyond the 3.74 that these samples can show",)
    above = frontier.fraction(1.0, 9.0)
    assert above.kl_fraction is None
    assert above.excess.low > 0
    still = frontier.fraction(0.0, frontier.reference_reward.value)
    assert still.reward_fraction is None
    assert "has not moved" in still.notes[0]


def test_a_reward_that_runs_out_is_flat_and_not_extrapolated():
    coins = np.tile([0.0, 1.0], (10, 32))
    frontier = OptimalFrontier.from_samples(coins, resampling=HOW)
    exact = OptimalFrontier.from_law([[0.0, 1.0]] * 10, [[0.5, 0.5]] * 10, resampling=HOW)
    for kl in (0.05, 0.2, 0.37, 0.6):
        assert exact.reward_at(kl).value == pytest.approx(binary_reward_at([0.5], kl), abs=2e-4)
        # The correction takes the samples, which are as even as can be, for drawn ones, and is of the size 1 / M.
        assert frontier.reward_at(kl).value == pytest.approx(binary_reward_at([0.5], kl), abs=1 / 64)
    assert frontier.reward_at(3.0).value == pytest.approx(1.0)
    assert exact.kl_at(1.0).value == pytest.approx(math.log(2), abs=1e-3)
    assert frontier.kl_at(1.0).value == pytest.approx(math.log(2), abs=1 / 64)
    assert frontier.kl_at(0.2).value == 0.0
    assert exact.fraction(3.0, 0.9).kl_fraction.value == pytest.approx(0.368 / 3, abs=1e-3)


def test_pooled_samples_reach_beyond_the_references_own():
    # pi* of beta 1/sqrt(12) has KL 6 in a Gaussian world and is the normal law of mean sqrt(12).
    rng, shift = np.random.default_rng(5), math.sqrt(12)
    rewards = rng.normal(size=(400, 64)) + np.repeat([0.0, shift], 32)
    log_ref, log_policy = -(rewards**2) / 2, -((rewards - shift) ** 2) / 2
    pooled = OptimalFrontier.from_mixture(
        rewards, log_ref, log_policy[None], [32, 32], betas=[1 / shift], resampling=HOW
    )
    at = int(np.argmin(np.abs(pooled.betas - 1 / shift)))
    assert pooled.kl[at] == pytest.approx(6, abs=0.2)
    assert pooled.reward[at] == pytest.approx(shift, abs=0.1)
    assert pooled.limit_kl > 6
    assert pooled.reward_at(1.0).value == pytest.approx(math.sqrt(2), rel=0.02)
    assert pooled.reference_reward.value == pytest.approx(0, abs=0.05)
    alone = OptimalFrontier.from_samples(rng.normal(size=(400, 64)), betas=[1 / shift], resampling=HOW)
    assert alone.kl[np.argmin(np.abs(alone.betas - 1 / shift))] < 3
    assert pooled.upper_reward_at(5.0) > math.sqrt(10)


def test_intervals_cover_the_true_share():
    rewards, law = world(num_prompts=400)
    policy = optimum(rewards + np.random.default_rng(1).normal(size=rewards.shape), law, 0.7)
    kl, reward = divergence(policy, law), (policy * rewards).sum(axis=1)
    true = OptimalFrontier.from_law(rewards, law).fraction(kl, reward).reward_fraction.value
    covered = 0
    for seed in range(25):
        rng = np.random.default_rng(seed)
        some = rng.choice(400, size=60)
        part = OptimalFrontier.from_law(rewards[some], law[some], resampling=Resampling(num_resamples=100, seed=seed))
        covered += not part.fraction(kl[some], reward[some]).reward_fraction.excludes(true)
    assert covered >= 21


def test_numbers_of_another_origin_are_refused():
    rewards = np.random.default_rng(6).normal(size=(3, 16))
    law = SamplingLaw(max_new_tokens=8)
    origin = Provenance(law=law, reference="aa", prompts=["x", "y", "z"])
    frontier = OptimalFrontier.from_samples(rewards, provenance=origin, resampling=HOW)
    assert frontier.fraction(0.2, 0.3, origin).reward_fraction is not None
    with pytest.raises(ValueError, match="give the policy's provenance"):
        frontier.fraction(0.2, 0.3)
    with pytest.raises(ValueError, match="against reference aa, but the policy's KL was taken against bb"):
        frontier.fraction(0.2, 0.3, Provenance(law=law, reference="bb", prompts=["x", "y", "z"]))
    with pytest.raises(ValueError, match="the same prompts in the same order"):
        frontier.gap(1.0, 0.2, 0.3, Provenance(law=law, reference="aa", prompts=["x", "z", "y"]))
    longer = Provenance(law=SamplingLaw(max_new_tokens=9), reference="aa", prompts=["x", "y", "z"])
    with pytest.raises(ValueError, match="max_new_tokens 8 and 9"):
        frontier.fraction(0.2, 0.3, longer)
    with pytest.raises(ValueError, match="drawn with top_k=50"):
        Provenance(law=SamplingLaw(top_k=50), reference="aa", prompts=["x"])


def test_a_policys_numbers_must_fit_the_frontier():
    frontier = OptimalFrontier.from_samples(np.random.default_rng(7).normal(size=(3, 16)), resampling=HOW)
    with pytest.raises(ValueError, match="reward must have one value for each of 3 prompts"):
        frontier.fraction([0.1, 0.2, 0.3], [0.1, 0.2])
    with pytest.raises(ValueError, match="kl must be finite"):
        frontier.fraction([0.1, math.nan, 0.3], 0.1)
    with pytest.raises(ValueError, match="beta must be > 0"):
        frontier.gap(0.0, 0.1, 0.1)
    with pytest.raises(ValueError, match="betas must be a list of numbers > 0"):
        OptimalFrontier.from_samples(np.eye(8), betas=[1.0, -1.0])
    with pytest.raises(ValueError, match="sum to 1 on each prompt"):
        OptimalFrontier.from_law(np.eye(4), np.eye(4) * 0.5)


def test_the_report_gets_the_shown_points_with_their_band():
    frontier = OptimalFrontier.from_samples(
        np.random.default_rng(8).normal(size=(60, 32)), betas=[0.05, 0.5], resampling=HOW
    )
    found = json.loads(json.dumps(frontier.as_dict()))
    points = found["points"]
    assert 0.5 in points["beta"]
    assert 0.05 not in points["beta"]
    assert max(points["kl"]) <= found["limit_kl"]
    assert all(
        low <= reward <= high
        for low, reward, high in zip(points["reward_low"], points["reward"], points["reward_high"], strict=True)
    )
    at = points["beta"].index(0.5)
    interval = frontier.reward_at(points["kl"][at])
    assert (points["reward_low"][at], points["reward_high"][at]) == pytest.approx((interval.low, interval.high))
    assert OptimalFrontier.from_law(*world(), resampling=HOW).as_dict()["limit_kl"] is None
    position = json.loads(json.dumps(frontier.fraction(0.3, 0.5).as_dict()))
    assert position["reward_fraction"]["n"] == 60
