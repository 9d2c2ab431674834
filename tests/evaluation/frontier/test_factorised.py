"""The best policy of independent pixels, beside enumeration of 2^8 masks, a search over all logits, and closed forms."""

from __future__ import annotations

from functools import partial
from itertools import product

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, logsumexp

from exptilt.evaluation.frontier.factorised import FactorisedOptimum, best_factorised, factorised_kl, mean_field
from exptilt.rewards.expected_overlap import ExpectedOverlap, PixelAccuracy
from exptilt.rewards.mask_annotator import MaskAnnotator

TRUE = np.array([1, 1, 1, 0, 0, 0, 0, 1])
MASKS = np.array(list(product((0, 1), repeat=8)))
DICE = np.array([MaskAnnotator().utility(mask, TRUE) for mask in MASKS])


def reference(seed, pixels=8, scale=1.0):
    logits = np.random.default_rng(seed).normal(size=pixels, scale=scale)
    return np.log(np.stack([expit(-logits), expit(logits)]))


def logs_of(z):
    return np.log(np.stack([expit(-z), expit(z)]))


def chances(logs):
    return logs[MASKS, np.arange(8)].sum(1)


@pytest.mark.parametrize("beta", [0.02, 0.1, 0.5])
def test_the_mean_field_equation_is_the_best_of_all_logits(beta):
    """Enumeration of 2^8 masks: the fixed point solves the equation, no search over logits ends higher, and the
    optimum over all policies is a little above."""
    start = reference(0)

    def objective(z):
        logs = logs_of(z)
        return float((np.exp(chances(logs)) * DICE).sum()) - beta * factorised_kl(logs, start)

    found = mean_field(start, partial(ExpectedOverlap().moments, true=TRUE), beta)
    z = found.log_probabilities[1] - found.log_probabilities[0]
    of_pixel = [
        sum(
            sign
            * np.exp(chances(found.log_probabilities) - found.log_probabilities[label, at])[MASKS[:, at] == label]
            @ DICE[MASKS[:, at] == label]
            for label, sign in ((1, 1), (0, -1))
        )
        for at in range(8)
    ]
    assert beta * (z - (start[1] - start[0])) == pytest.approx(of_pixel, abs=1e-6)
    assert found.objective(beta) == pytest.approx(objective(z), abs=1e-10)
    random = np.random.default_rng(1)
    searched = max(-minimize(lambda z: -objective(z), random.normal(size=8, scale=2)).fun for _ in range(6))
    assert found.objective(beta) >= searched - 1e-6
    over_all = beta * float(logsumexp(chances(start) + DICE / beta))
    at_reference = float((np.exp(chances(start)) * DICE).sum())
    assert at_reference < found.objective(beta) <= over_all + 1e-12
    assert found.objective(beta) - at_reference > 0.95 * (over_all - at_reference)


def test_a_sum_over_pixels_has_its_closed_form():
    """Weighted accuracy: logit q = logit pi_ref + w / beta exactly, and the curve is that of independent coins."""
    weights = (1.0, 3.0)
    accuracy, start = PixelAccuracy(weights), reference(2)
    worth = np.asarray(weights)[TRUE] / np.asarray(weights)[TRUE].sum()
    tilt = np.where(TRUE == 1, 1, -1) * worth
    found = mean_field(start, partial(accuracy.moments, true=TRUE), 0.05)
    assert found.log_probabilities[1] - found.log_probabilities[0] == pytest.approx(
        start[1] - start[0] + tilt / 0.05, abs=1e-9
    )
    optimum = FactorisedOptimum.solve([start], [partial(accuracy.moments, true=TRUE)], [TRUE])
    for at, beta in enumerate(optimum.betas.tolist(), start=1):
        exact = logs_of(start[1] - start[0] + tilt / beta)
        assert optimum.kl[0, at] == pytest.approx(factorised_kl(exact, start), rel=1e-6, abs=1e-12)
        assert optimum.reward[0, at] == pytest.approx((np.exp(exact)[TRUE, np.arange(8)] * worth).sum(), abs=1e-9)


def curve(seeds, scale=1.0, **more):
    starts = [reference(seed, scale=scale) for seed in seeds]
    moments = [partial(ExpectedOverlap().moments, true=TRUE)] * len(starts)
    return starts, FactorisedOptimum.solve(starts, moments, [TRUE] * len(starts), **more)


def test_the_curve_runs_from_the_reference_to_the_true_mask():
    starts, optimum = curve(range(4))
    kl, rewards = optimum.drawn()
    assert kl[0] == 0
    assert rewards[0].value == pytest.approx(np.mean([np.exp(chances(start)) @ DICE for start in starts]))
    assert rewards[-1].value == pytest.approx(1)
    assert kl[-1] == pytest.approx(np.mean([-start[TRUE, np.arange(8)].sum() for start in starts]))
    assert kl[1] < 0.01 * kl[-1]
    assert kl[-2] > 0.8 * kl[-1]
    assert all(np.diff(kl) >= 0)
    assert all(np.diff([one.value for one in rewards]) >= -1e-12)


def test_no_policy_of_independent_pixels_is_above_the_curve():
    """Random policies lie below the bound; the optimum itself lies on the curve, with a share of 1 and no excess."""
    starts, optimum = curve(range(5), num_betas=16)
    random = np.random.default_rng(0)
    once = np.ones((1, 5))
    for scale in (0.1, 1.0, 3.0):
        policies = [
            logs_of(start[1] - start[0] + random.normal(size=8, scale=scale) + scale * (2 * TRUE - 1))
            for start in starts
        ]
        kl = np.array([factorised_kl(policy, start) for policy, start in zip(policies, starts, strict=True)])
        reward = np.array([np.exp(chances(policy)) @ DICE for policy in policies])
        assert reward.mean() <= float(optimum.upper(once, np.array([kl.mean()]))[0])
        stands = optimum.position(kl, reward)
        assert stands.excess.value <= 0
        assert stands.reward_fraction.value < 1
    stands = optimum.position(optimum.kl[:, 9], optimum.reward[:, 9])
    assert stands.reward_fraction.value == pytest.approx(1, abs=1e-9)
    assert stands.kl_fraction.value == pytest.approx(1, abs=1e-9)
    assert stands.excess.value == pytest.approx(0, abs=1e-9)
    still = optimum.position(np.zeros(5), optimum.start)
    assert still.reward_fraction is None
    assert "has not moved" in still.notes[0]


def test_between_points_the_curve_is_near_the_bound():
    """With 24 betas the chord is within a thousandth of the supporting lines."""
    _, optimum = curve(range(3))
    once = np.ones((1, 3))
    top = optimum.kl.mean(axis=0)[-1]
    for kl in np.linspace(0.05 * top, 0.9 * top, 9):
        at = np.array([kl])
        gap = float(optimum.upper(once, at)[0] - optimum.reward_at(once, at)[0])
        assert 0 <= gap < 0.004


def all_or_nothing(probabilities):
    """Reward 1 for a mask of ones and 0.8 for a mask of zeros: two separate maxima."""
    of_zeros, of_ones = probabilities
    rest = [np.array([np.delete(side, at).prod() for at in range(len(side))]) for side in (of_zeros, of_ones)]
    adds = np.stack([np.zeros_like(of_ones), rest[1] - 0.8 * rest[0]])
    return float(of_ones.prod() + 0.8 * of_zeros.prod()), adds


def test_two_maxima_are_compared():
    """From a reference that leans to zeros the equation leads to zeros, also where ones are better."""
    start, ones, betas = logs_of(np.full(4, -1.5)), np.ones(4, dtype=int), np.geomspace(1, 0.01, 12)
    best = best_factorised(start, all_or_nothing, betas, ones)
    alone = [mean_field(start, all_or_nothing, beta) for beta in betas.tolist()]
    for beta, one, other in zip(betas.tolist(), best, alone, strict=True):
        assert one.objective(beta) >= other.objective(beta) - 1e-12
    assert best[-1].reward == pytest.approx(1, abs=1e-3)
    assert alone[-1].reward == pytest.approx(0.8, abs=1e-3)


def test_a_reward_that_is_one_number_has_no_curve():
    def constant(probabilities):
        return 1.0, np.zeros_like(probabilities)

    with pytest.raises(ValueError, match="same for all masks"):
        FactorisedOptimum.solve([reference(0)], [constant], [TRUE])
