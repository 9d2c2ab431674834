import math

import numpy as np
import pytest
from scipy.special import rel_entr, softmax

from exptilt.evaluation.kl import estimate_kl, nats_per_token
from exptilt.sampling.sampling_law import SamplingLaw

STEPS, TOKENS = 12, 128


def markov(seed, scale):
    base = np.random.default_rng(0).normal(size=(TOKENS, TOKENS))
    return softmax(base + scale * np.random.default_rng(seed).normal(size=(TOKENS, TOKENS)), axis=1)


def exact_kl(policy, reference):
    """By dynamic programming: the chance of each last token, times the KL of the next step."""
    reached, total = np.eye(TOKENS)[0], 0.0
    steps = rel_entr(policy, reference).sum(axis=1)
    for _ in range(STEPS):
        total += reached @ steps
        reached = reached @ policy
    return total


def sampled_sums(policy, reference, num):
    """Rao-Blackwellised sums and k1 of `num` sequences drawn from the policy."""
    rng, last = np.random.default_rng(7), np.zeros(num, dtype=int)
    kl, k1 = np.zeros(num), np.zeros(num)
    steps = rel_entr(policy, reference).sum(axis=1)
    for _ in range(STEPS):
        drawn = (rng.random(num)[:, None] > np.cumsum(policy[last], axis=1)).sum(axis=1)
        kl += steps[last]
        k1 += np.log(policy[last, drawn] / reference[last, drawn])
        last = drawn
    return kl, k1


@pytest.mark.parametrize(
    ("scale", "noise", "noise_of_k1"), [(0.15, 0.008, 0.52), (0.47, 0.078, 1.62), (0.95, 0.42, 3.17)]
)
def test_both_estimates_are_unbiased_and_rao_blackwell_has_the_known_noise(scale, noise, noise_of_k1):
    """KLs of 0.13, 1.3 and 5 nats a sequence: 65, 21 and 7.5 times less noise than k1, as another such world showed."""
    policy, reference = markov(1, scale), markov(1, 0.0)
    kl, k1 = sampled_sums(policy, reference, 4_000)
    found = estimate_kl(kl, np.arange(4_000), SamplingLaw(), k1=k1)
    exact = exact_kl(policy, reference)
    assert found.kl.value == pytest.approx(exact, abs=4 * kl.std() / math.sqrt(4000))
    assert found.k1.value == pytest.approx(exact, abs=4 * k1.std() / math.sqrt(4000))
    assert k1.std() == pytest.approx(noise_of_k1, rel=0.1)
    assert kl.std() == pytest.approx(noise, rel=0.2)
    assert not found.k1_minus_kl.excludes(0.0)


def test_samples_of_another_policy_are_noticed():
    policy, reference = markov(1, 0.5), markov(1, 0.0)
    other = markov(2, 0.7)
    kl, _ = sampled_sums(other, reference, 2000)
    _, k1 = sampled_sums(policy, reference, 2000)
    assert estimate_kl(kl, np.arange(2000), SamplingLaw(), k1=k1).k1_minus_kl.excludes(0.0)


def test_only_the_plain_law_has_this_kl():
    with pytest.raises(
        ValueError, match=r"a sequence-level KL needs samples of the model's own distribution.*top_k=50"
    ):
        estimate_kl([1.0], ["a"], SamplingLaw(top_k=50))
    with pytest.raises(ValueError, match=r"temperature=0\.7"):
        estimate_kl([1.0], ["a"], SamplingLaw(temperature=0.7))


def test_log_ratios_are_not_taken_for_sums_of_kls():
    with pytest.raises(ValueError, match="1 of 2 sums are negative"):
        estimate_kl([1.0, -0.4], ["a", "b"], SamplingLaw())
    assert estimate_kl([1.0, -1e-5], ["a", "b"], SamplingLaw()).kl.value == pytest.approx(0.5, abs=1e-4)
    with pytest.raises(ValueError, match="the Rao-Blackwellised sums must be finite"):
        estimate_kl([1.0, math.nan], ["a", "b"], SamplingLaw())


def test_prompts_keep_their_order():
    found = estimate_kl([4.0, 1.0, 2.0, 3.0], ["z", "b", "z", "a"], SamplingLaw())
    assert found.by_prompt.tolist() == [3.0, 1.0, 3.0]
    assert found.kl.n == 3
    assert found.as_dict()["by_prompt"] == [3.0, 1.0, 3.0]
    assert found.as_dict()["k1"] is None


def test_nats_per_token_hide_the_length():
    short = nats_per_token([2.0, 2.0], [40, 40], ["a", "b"])
    long = nats_per_token([6.0, 6.0], [120, 120], ["a", "b"])
    assert short.value == long.value == 0.05
    assert nats_per_token([1.0, 9.0], [1, 99], ["a", "b"]).value == pytest.approx(0.1)
