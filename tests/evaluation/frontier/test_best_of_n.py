import itertools
import math

import numpy as np
import pytest

from exptilt.evaluation.frontier.best_of_n import (
    best_of_n,
    best_of_n_curve,
    best_of_n_law,
    exact_kl,
    kl_bound,
    order_weights,
    plug_in_kl,
    ranked_by,
)
from exptilt.evaluation.frontier.optimum import OptimalFrontier
from exptilt.evaluation.intervals import Resampling
from exptilt.testbed import MarkovWorld

PEAKED, REWARDS = np.array([0.6, 0.3, 0.1]), np.array([0.0, 1.0, 2.0])


def test_the_pool_estimate_is_the_mean_over_all_subsets():
    pool = np.random.default_rng(0).normal(size=7)
    for n in range(1, 8):
        by_hand = np.mean([max(chosen) for chosen in itertools.combinations(pool, n)])
        (found,) = best_of_n(pool[None], [n])
        assert found.rewards[0] == pytest.approx(by_hand, abs=1e-12)


def test_it_is_unbiased_for_a_gaussian_reward():
    # E[max of 4 standard normals] = 1.02938.
    pools = np.random.default_rng(1).normal(size=(4000, 16))
    (four,) = best_of_n(pools, [4], resampling=Resampling(level=0.999))
    assert not four.reward.excludes(1.02938)
    assert four.reward.high - four.reward.low < 0.05


def test_weights_of_large_pools_stay_exact():
    weights = order_weights(5000, 1000)
    assert weights.sum() == pytest.approx(1)
    assert (weights[:999] == 0).all()
    assert weights[-1] == pytest.approx(0.2)
    assert order_weights(64, 1) == pytest.approx(1 / 64)


def test_the_win_rate_of_the_best_of_n_is_n_over_n_plus_one():
    ranks = (np.arange(1, 513) - 0.5) / 512
    assert ranks @ order_weights(512, 8) == pytest.approx(8 / 9, abs=1e-3)


@pytest.mark.parametrize(("n", "exact", "estimate", "bound"), [(2, 0.121, 0.182, 0.193), (64, 2.292, 2.293, 3.175)])
def test_exact_and_plug_in_kl_of_a_peaked_reference(n, exact, estimate, bound):
    law = best_of_n_law(PEAKED, REWARDS, n)
    assert exact_kl(PEAKED, REWARDS, n) == pytest.approx(exact, abs=6e-4)
    assert law @ plug_in_kl(np.log(PEAKED), n) == pytest.approx(estimate, abs=6e-4)
    assert kl_bound(n) == pytest.approx(bound, abs=6e-4)


def test_a_diffuse_reference_reaches_the_bound():
    law, rewards = np.full(20_000, 1 / 20_000), np.arange(20_000.0)
    for n in (2, 16, 128):
        assert exact_kl(law, rewards, n) == pytest.approx(kl_bound(n), abs=5e-3)
        assert plug_in_kl(math.log(1 / 20_000), n) == pytest.approx(kl_bound(n), abs=5e-3)
        assert plug_in_kl(-800.0, n) == pytest.approx(kl_bound(n))


def test_one_certain_completion_and_n_of_one_cost_nothing():
    assert plug_in_kl([0.0, -1e-300], 8) == pytest.approx(0, abs=1e-12)
    assert plug_in_kl(np.log([0.9, 0.1, 1e-9]), 1) == pytest.approx(0, abs=1e-12)
    assert exact_kl(PEAKED, REWARDS, 1) == pytest.approx(0, abs=1e-12)


def test_the_exact_law_is_what_sampling_n_and_keeping_the_best_gives():
    law, rewards = np.array([0.2, 0.3, 0.1, 0.4]), np.array([1.0, 0.0, 1.0, 2.0])
    by_hand = np.zeros(4)
    for triple in itertools.product(range(4), repeat=3):
        best = [y for y in triple if rewards[y] == max(rewards[list(triple)])]
        for y in best:
            by_hand[y] += np.prod(law[list(triple)]) / len(best)
    assert best_of_n_law(law, rewards, 3) == pytest.approx(by_hand)


def test_best_of_n_is_a_policy_near_the_optimum():
    rng = np.random.default_rng(2)
    rewards = rng.normal(size=(300, 256))
    frontier = OptimalFrontier.from_samples(rewards)
    for found in best_of_n(rewards, [2, 8]):
        place = frontier.fraction(found.kls, found.rewards)
        assert 0.9 < place.reward_fraction.value < 0.96
        assert 0.81 < place.kl_fraction.value < 0.92
        assert place.excess.high < 0


def test_log_probabilities_lower_the_kl_below_the_bound():
    rng = np.random.default_rng(3)
    drawn = rng.choice(3, p=PEAKED, size=(4000, 8))
    (found,) = best_of_n(REWARDS[drawn], [2], np.log(PEAKED)[drawn])
    assert found.kls.mean() == pytest.approx(0.182, abs=0.005)
    assert found.bound == pytest.approx(0.1931, abs=1e-4)
    (bounded,) = best_of_n(REWARDS[drawn], [2])
    assert (bounded.kls == bounded.bound).all()


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"n must be in \[1, 4\]"):
        best_of_n(np.ones((2, 4)), [5])
    with pytest.raises(ValueError, match="must be finite"):
        best_of_n([[1.0, math.nan]], [1])
    with pytest.raises(ValueError, match="log_probs must have the shape"):
        best_of_n(np.ones((2, 4)), [2], np.ones((2, 4)))
    with pytest.raises(ValueError, match="n must be >= 1"):
        best_of_n_law(PEAKED, REWARDS, 0)
    with pytest.raises(ValueError, match="probabilities that sum to 1"):
        best_of_n_law([0.5, 0.1], [1.0, 2.0], 2)


def test_a_proxy_picks_and_the_true_reward_judges_as_in_an_enumeration_of_all_subsets():
    rng = np.random.default_rng(4)
    proxy, gold = rng.integers(0, 3, size=(2, 6)).astype(float), rng.normal(size=(2, 6))  # proxies with many ties
    curve = best_of_n_curve(proxy, gold)
    for n in range(1, 7):
        picked, judged = [], []
        for picks, truths in zip(proxy, gold, strict=True):
            for chosen in map(list, itertools.combinations(range(6), n)):
                best = picks[chosen].max()
                picked.append(best)
                judged.append(truths[chosen][picks[chosen] == best].mean())  # a fair draw among equals
        assert curve.chosen_by[n - 1] == pytest.approx(np.mean(picked), abs=1e-12)
        assert curve.gold[n - 1].value == pytest.approx(np.mean(judged), abs=1e-12)


def test_an_over_optimised_proxy_rises_while_the_true_reward_turns_and_falls():
    # Proxy p standard normal, gold p - 0.4 p^2: with E[max] = m and E[max^2] = v, gold is m - 0.4 v.
    rng = np.random.default_rng(5)
    proxy = rng.normal(size=(600, 64))
    curve = best_of_n_curve(proxy, proxy - 0.4 * proxy**2, resampling=Resampling(num_resamples=200))
    assert (np.diff(curve.chosen_by) > 0).all()
    moments = {1: (0.0, 1.0), 2: (0.5642, 1.0), 4: (1.0294, 1.5513), 64: (2.3437, 5.6704)}  # of the largest of n
    for n, (first, second) in moments.items():
        assert curve.gold[n - 1].value == pytest.approx(first - 0.4 * second, abs=0.05)
    assert 6 <= curve.best_n <= 12
    assert curve.fall.high < 0
    same = best_of_n_curve(proxy, proxy, resampling=Resampling(num_resamples=200))
    assert same.best_n == 64
    assert same.fall.value == 0
    assert [point.value for point in same.gold] == pytest.approx(same.chosen_by)


def test_no_fall_is_seen_where_there_is_none():
    """The best n is picked on other prompts: noise alone does not make a fall, as its own highest point would."""
    rng = np.random.default_rng(6)
    falls = []
    for _ in range(40):
        proxy, gold = rng.normal(size=(60, 16)), rng.normal(size=(60, 16))
        falls.append(best_of_n_curve(proxy, gold, resampling=Resampling(num_resamples=100)).fall.value)
    assert abs(np.mean(falls)) < 2.5 * np.std(falls) / np.sqrt(40)


def test_the_curve_and_its_kl_are_those_of_an_exact_world():
    world = MarkovWorld(length=6).at(0)
    law = world.reward_law(world.reference)
    drawn = world.sample(256 * 300, np.random.default_rng(7))
    pool = world.rewards(drawn.tokens).reshape(300, 256)
    curve = best_of_n_curve(pool, pool, resampling=Resampling(num_resamples=200, level=0.999))
    for n in (1, 2, 8, 32):
        assert not curve.gold[n - 1].excludes(law.best_of(n).mean)
        # Best-of-n of the rewards' levels: the exact KL is below the bound, and the two ways to compute it agree.
        assert law.best_of_kl(n) == pytest.approx(exact_kl(law.probabilities, law.rewards, n), abs=1e-12)
        assert law.best_of_kl(n) <= curve.bound[n - 1] + 1e-12
        assert curve.kl[n - 1] == pytest.approx(curve.bound[n - 1])  # no log-probabilities were given


def test_log_probabilities_of_equal_rewards_are_averaged_whatever_their_order():
    logs = np.log([[0.5, 0.3, 0.2]])
    forwards = best_of_n_curve([[1.0, 1.0, 1.0]], [[0.0, 0.0, 0.0]], logs)
    backwards = best_of_n_curve([[1.0, 1.0, 1.0]], [[0.0, 0.0, 0.0]], logs[:, ::-1])
    assert forwards.kl == pytest.approx(backwards.kl, abs=1e-15)
    assert forwards.kl[1] == pytest.approx(plug_in_kl(logs, 2).mean())
    assert forwards.fall is None
    assert ranked_by(np.zeros((1, 3)), np.array([[1.0, 2.0, 6.0]])).tolist() == [[3.0, 3.0, 3.0]]


def test_a_curve_of_two_shapes_is_refused():
    with pytest.raises(ValueError, match="gold must have the shape of chosen_by"):
        best_of_n_curve(np.eye(3), np.eye(4))
