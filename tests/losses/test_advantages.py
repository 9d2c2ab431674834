"""Advantages against sums written out, token by token."""

from __future__ import annotations

import pytest
import torch

from exptilt.losses.advantages import gae, group_relative, leave_one_out, token_rewards, whitened
from exptilt.losses.importance import effective_share, mismatch, truncated_weights
from exptilt.types import LogProbs

LENGTHS = [4, 1, 7, 3]
GENERATOR = torch.Generator().manual_seed(0)
REWARDS, VALUES = (torch.randn(sum(LENGTHS), generator=GENERATOR, dtype=torch.float64) for _ in range(2))


def by_definition(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """A_t as the sum over all later errors, each computed anew; what follows the last token is worth nothing."""
    ahead = [*values[1:], 0.0]
    errors = [rewards[t] + gamma * ahead[t] - values[t] for t in range(len(rewards))]
    return [sum((gamma * lam) ** (s - t) * errors[s] for s in range(t, len(errors))) for t in range(len(errors))]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.8), (1.0, 1.0), (0.97, 0.0)])
def test_gae_is_the_sum_of_discounted_errors_of_each_sample_alone(gamma, lam):
    advantages, returns = gae(REWARDS, VALUES, torch.tensor(LENGTHS), gamma=gamma, lam=lam)
    expected, start = [], 0
    for length in LENGTHS:
        part = slice(start, start + length)
        expected += by_definition(REWARDS[part].tolist(), VALUES[part].tolist(), gamma, lam)
        start += length
    assert advantages.tolist() == pytest.approx(expected, rel=1e-12)
    assert (returns - VALUES).tolist() == pytest.approx(expected, rel=1e-12)


def test_gae_with_lam_one_is_what_is_still_to_be_earned_and_passes_no_gradient():
    values = VALUES.clone().requires_grad_()
    advantages, returns = gae(REWARDS, values, torch.tensor(LENGTHS), gamma=1.0, lam=1.0)
    to_go = REWARDS[[3, 4, 11]].tolist()
    assert returns[[3, 4, 11]].tolist() == pytest.approx(to_go)
    assert float(returns[0]) == pytest.approx(float(REWARDS[:4].sum()))
    assert not advantages.requires_grad
    assert not returns.requires_grad
    assert gae(REWARDS[:0], VALUES[:0], torch.tensor([], dtype=torch.int64), gamma=1, lam=1)[0].shape == (0,)


def test_every_token_pays_for_its_ratio_and_the_last_one_earns_the_reward():
    samples = LogProbs(values=torch.zeros(5), lengths=torch.tensor([3, 2]))
    kl = torch.tensor([0.5, -1.0, 2.0, 0.0, 4.0])
    earned = token_rewards(kl, torch.tensor([10.0, 20.0]), samples, beta=0.5)
    assert earned.tolist() == [-0.25, 0.5, 9.0, 0.0, 18.0]
    assert samples.sum_of(earned).tolist() == [10 - 0.5 * 1.5, 20 - 0.5 * 4.0]


def test_whitened_numbers_have_mean_zero_and_variance_one_over_the_whole_rollout():
    white = whitened(REWARDS)
    assert float(white.mean()) == pytest.approx(0.0, abs=1e-12)
    assert float(white.var()) == pytest.approx(1.0, rel=1e-7)
    assert torch.allclose(whitened(3 * REWARDS + 7), white, rtol=1e-6)
    assert whitened(torch.tensor([4.0])).tolist() == [0.0]
    assert whitened(torch.full((3,), 2.0)).tolist() == [0.0, 0.0, 0.0]


def test_a_baseline_is_of_the_group_alone_whatever_the_sizes():
    rewards, sizes = torch.tensor([1.0, 2.0, 6.0, 4.0, 0.0]), torch.tensor([3, 2])
    assert leave_one_out(rewards, sizes).tolist() == [-3.0, -1.5, 4.5, 4.0, -4.0]
    assert group_relative(rewards, sizes, by_std=False).tolist() == [-2.0, -1.0, 3.0, 2.0, -2.0]
    scaled = group_relative(rewards, sizes, by_std=True)
    first, second = 7**0.5 + 1e-4, 8**0.5 + 1e-4
    assert scaled.tolist() == pytest.approx([-2 / first, -1 / first, 3 / first, 2 / second, -2 / second])
    with pytest.raises(ValueError, match="sizes must add up to the 5 samples"):
        leave_one_out(rewards, torch.tensor([3, 3]))


def test_weights_of_samples_are_products_over_tokens_cut_at_the_limit():
    policy = LogProbs(values=torch.tensor([-1.0, -1.0, -2.0, -0.5]), lengths=torch.tensor([2, 1, 1]))
    drawn = torch.tensor([-1.2, -1.1, -1.0, -2.0])
    expected = [2.718281828**0.3, 2.718281828**-1, 2.0]
    assert truncated_weights(policy, drawn, limit=2.0).tolist() == pytest.approx(expected, rel=1e-6)
    of_tokens = truncated_weights(policy, drawn, limit=1.15, level="token")
    assert of_tokens.tolist() == pytest.approx([1.15, 2.718281828**0.1, 2.718281828**-1, 1.15], rel=1e-6)
    assert mismatch(policy, drawn).tolist() == pytest.approx([0.15, 1.0, 1.5])
    assert effective_share(torch.tensor([2.0, 1.0, 1.0])) == pytest.approx(16 / 18)


def test_the_mean_of_weights_over_what_was_drawn_is_one_by_enumeration():
    """Two tokens of three letters under mu; without the limit weights are unbiased, and with it they are too small."""
    generator = torch.Generator().manual_seed(1)
    pi, mu = (torch.randn(3, generator=generator, dtype=torch.float64).log_softmax(0) for _ in range(2))
    pairs = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    policy = LogProbs(values=pi[pairs].flatten(), lengths=torch.full((9,), 2))
    chance = mu[pairs].sum(1).exp()
    total = (chance * truncated_weights(policy, mu[pairs].flatten(), limit=1e9)).sum()
    assert float(total) == pytest.approx(1.0, rel=1e-12)
    assert float((chance * truncated_weights(policy, mu[pairs].flatten(), limit=1.2)).sum()) < 0.97
