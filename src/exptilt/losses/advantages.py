"""Advantages of samples: by how much each was better than expected, from rewards alone or with a critic's values.

Shape letters: B samples of G groups (the samples of one prompt), one group after the other; N tokens of all samples.
Nothing here has a gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from exptilt.types import LogProbs, group_sums, owners

SMALLEST_STD = 1e-4
"""Added to the standard deviation of a group's rewards, as in TRL: a group without variance has advantages of zero."""


def leave_one_out(rewards: Tensor, sizes: Tensor) -> Tensor:
    """(B,) each reward minus the mean of the other rewards of its group: an unbiased baseline.

        A_i = r_i - mean_{j != i} r_j = K / (K - 1) (r_i - mean_j r_j)

    Args:
        rewards: (B,) of all samples.
        sizes: (G,) samples of each group, at least 2.

    Raises:
        ValueError: a group has fewer than two samples, or the sizes do not add up to the samples.

    Source: Kool et al. (2019), as in RLOO, https://arxiv.org/abs/2402.14740.

    Example:
        >>> leave_one_out(torch.tensor([3.0, 0.0, 0.0, 1.0, 1.0]), torch.tensor([3, 2])).tolist()
        [3.0, -1.5, -1.5, 0.0, 0.0]
    """
    require_several(rewards, sizes)
    counts = sizes.to(rewards)[owners(sizes, rewards)]
    return counts / (counts - 1) * _centred(rewards, sizes)


def group_relative(rewards: Tensor, sizes: Tensor, *, by_std: bool) -> Tensor:
    """(B,) each reward minus the mean of its group, itself included; divided by the group's standard deviation if asked.

    The standard deviation has K - 1 in its denominator. Dividing by it makes prompts with little variance count more.

    Raises:
        ValueError: as `leave_one_out`.

    Example:
        >>> group_relative(torch.tensor([2.0, 0.0]), torch.tensor([2]), by_std=False).tolist()
        [1.0, -1.0]
        >>> [round(value, 3) for value in group_relative(torch.tensor([2.0, 0.0]), torch.tensor([2]), by_std=True).tolist()]
        [0.707, -0.707]
    """
    require_several(rewards, sizes)
    centred = _centred(rewards, sizes)
    if not by_std:
        return centred
    variance = group_sums(centred**2, sizes) / (sizes.to(rewards) - 1)
    return centred / (variance.sqrt() + SMALLEST_STD)[owners(sizes, rewards)]


def token_rewards(kl: Tensor, scores: Tensor, samples: LogProbs, beta: float) -> Tensor:
    """(N,) what each token earned: the price of its log-ratio, and at the last token of a sample the sample's reward.

        r_t = -beta (log pi(y_t) - log pi_ref(y_t)) + [t is last] r(x, y)

    Args:
        kl: (N,) log-ratio of each token, nats.
        scores: (B,) rewards of the samples.
        samples: whose `lengths` tell which token is the last; none may be empty.
        beta: price of a nat.

    Example:
        >>> samples = LogProbs(values=torch.zeros(3), lengths=torch.tensor([2, 1]))
        >>> token_rewards(torch.tensor([1.0, 0.0, -2.0]), torch.tensor([5.0, 6.0]), samples, beta=0.5).tolist()
        [-0.5, 5.0, 7.0]
    """
    last = samples.nonempty_lengths().cumsum(0).to(kl.device) - 1
    return (-beta * kl).index_add(0, last, scores.to(kl))


def gae(rewards: Tensor, values: Tensor, lengths: Tensor, *, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalized advantage estimation: (N,) advantages of tokens, and (N,) returns, which the critic is to predict.

        delta_t = r_t + gamma V_{t+1} - V_t      A_t = sum_{l >= 0} (gamma lam)^l delta_{t+l}      R_t = A_t + V_t

    A sample ends after its last token, where V is 0. lam = 1 is the sum of rewards to come minus V, lam = 0 is delta.

    Args:
        rewards: (N,) what each token earned.
        values: (N,) the critic's value of the prefix before each token.
        lengths: (B,) tokens of each sample.
        gamma: discount of later rewards.
        lam: how far an advantage looks ahead before it trusts the critic.

    Source: Schulman et al. (2016), https://arxiv.org/abs/1506.02438, eq. 16; the equation number is unchecked.

    Example:
        >>> advantages, returns = gae(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.5]), torch.tensor([2]), gamma=1, lam=1)
        >>> advantages.tolist(), returns.tolist()
        ([0.5, 0.5], [1.0, 1.0])
    """
    samples = LogProbs(values=values, lengths=lengths)
    place = samples.positions().to(values.device)
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths).to(values.device)
    longest = int(lengths.max()) if len(lengths) else 0
    reward, value = (_rectangle(units, owner, place, (len(lengths), longest + 1)) for units in (rewards, values))
    advantage = torch.zeros_like(value)
    for step in reversed(range(longest)):
        delta = reward[:, step] + gamma * value[:, step + 1] - value[:, step]
        advantage[:, step] = delta + gamma * lam * advantage[:, step + 1]
    flat = advantage[owner, place]
    return flat, flat + values.detach()


def whitened(advantages: Tensor) -> Tensor:
    """The same numbers with mean 0 and variance 1, over everything that is given: one rollout of all processes.

    The variance has N - 1 in its denominator, and 1e-8 is added to it. Whitening makes the size of a step independent of
    the scale of the reward, and it is not unbiased.

    Example:
        >>> [round(value, 4) for value in whitened(torch.tensor([1.0, 3.0])).tolist()]
        [-0.7071, 0.7071]
    """
    if len(advantages) < 2:
        return advantages - advantages
    return (advantages - advantages.mean()) * (advantages.var() + 1e-8).rsqrt()


def require_several(rewards: Tensor, sizes: Tensor) -> None:
    """Refuse groups that cannot be compared with themselves.

    Raises:
        ValueError: a group has fewer than two samples, or the sizes do not add up to the samples.
    """
    if sizes.ndim != 1 or int(sizes.sum()) != len(rewards):
        raise ValueError(f"sizes must add up to the {len(rewards)} samples, got {sizes.tolist()}")
    if len(sizes) and int(sizes.min()) < 2:
        group = int((sizes < 2).nonzero()[0])
        raise ValueError(
            f"sizes: group {group} has {int(sizes[group])} sample, and its baseline is the mean of the others; draw 2 or more"
        )


def _centred(rewards: Tensor, sizes: Tensor) -> Tensor:
    means = group_sums(rewards, sizes) / sizes.to(rewards)
    return rewards - means[owners(sizes, rewards)]


def _rectangle(units: Tensor, owner: Tensor, place: Tensor, shape: tuple[int, int]) -> Tensor:
    """(B, T) rectangle of (N,) units, zero where there is no token."""
    rectangle = torch.zeros(shape, dtype=units.dtype, device=units.device)
    rectangle[owner, place] = units.detach()
    return rectangle
