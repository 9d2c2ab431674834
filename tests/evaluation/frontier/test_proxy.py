import numpy as np
import pytest
from scipy.special import softmax

from exptilt.evaluation.frontier.proxy import proxy_curve
from exptilt.evaluation.intervals import Resampling

HOW = Resampling(num_resamples=200)


def test_a_proxy_that_is_true_plus_noise_gives_its_share_of_the_gain():
    # Jointly Gaussian: tilting by the proxy p = g + e gains Var(g) / beta in g and Var(p) / beta in p.
    rng = np.random.default_rng(0)
    gold = rng.normal(size=(800, 256))
    found = proxy_curve(gold + 0.5 * rng.normal(size=gold.shape), gold, resampling=HOW)
    early = found.kl < 0.5
    gained = np.array([point.value for point in found.gold])
    assert early.sum() > 5
    assert gained[early] == pytest.approx(found.proxy[early] / 1.25, abs=0.02)


def test_over_optimisation_shows_as_a_peak():
    rng = np.random.default_rng(1)
    proxy = rng.normal(size=(500, 256))
    found = proxy_curve(proxy, proxy - 0.4 * proxy**2, resampling=HOW)
    # E[g] under a tilt to mean m is m - 0.4 (m^2 + 1), highest at m = 1.25, where KL = m^2 / 2 = 0.78.
    assert found.best_kl == pytest.approx(0.78, abs=0.25)
    assert found.gold[-1].high < max(point.value for point in found.gold)
    assert found.kl[-1] <= 0.9 * np.log(256)


def test_a_point_is_the_weighted_mean_of_the_true_reward():
    rng = np.random.default_rng(2)
    proxy, gold = rng.normal(size=(5, 32)), rng.normal(size=(5, 32))
    found = proxy_curve(proxy, gold, resampling=HOW)
    weights = softmax(proxy / found.betas[10], axis=1)
    assert found.gold[10].value == pytest.approx((weights * gold).sum(axis=1).mean())
    assert found.proxy[10] == pytest.approx((weights * proxy).sum(axis=1).mean())


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match="gold must have the shape of proxy"):
        proxy_curve(np.eye(8), np.eye(4))
    with pytest.raises(ValueError, match="num_points must be >= 2"):
        proxy_curve(np.eye(8), np.eye(8), 1)
