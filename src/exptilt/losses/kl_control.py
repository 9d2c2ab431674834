"""The coefficient of the KL penalty, moved until the KL of a run is what was asked for."""

from __future__ import annotations

from collections.abc import Mapping

from exptilt.losses.base import State

ROLLOUT_KL = "rollout/kl"
"""The metric that a controller follows: the mean KL of a rollout's samples to the reference when they were drawn."""
LARGEST_ERROR = 0.2
"""The relative error counts as at most this, in both directions."""


def next_beta(beta: float, kl: float, target: float, gain: float) -> float:
    """The coefficient after a batch whose samples had this KL: larger where the KL was above its target.

        beta (1 + gain * clip(KL / target - 1, -0.2, 0.2))

    Args:
        beta: the coefficient the batch was made with.
        kl: mean over the samples of log pi(y|x) - log pi_ref(y|x), nats per sequence.
        target: the KL that is wanted, nats per sequence, > 0.
        gain: how fast the coefficient follows; 0.1 in the paper, where it moves by at most 2 % at once.

    Source: Ziegler et al. (2019), https://arxiv.org/abs/1909.08593, section 2.2; the section number is unchecked. The authors'
        code has the gain as batch size over a horizon of 10,000 samples.

    Example:
        >>> [round(next_beta(0.1, kl, target=6.0, gain=0.1), 4) for kl in (0.0, 6.0, 6.6, 20.0)]
        [0.098, 0.1, 0.101, 0.102]
    """
    error = kl / target - 1
    return beta * (1 + gain * min(max(error, -LARGEST_ERROR), LARGEST_ERROR))


def require_movable(beta: float, target_kl: float | None) -> None:
    """Refuse a target for a coefficient of zero, which no factor moves."""
    if target_kl is not None and not beta:
        raise ValueError("beta must be > 0 where target_kl is given, as beta is moved by factors")


def moved_beta(state: State, means: Mapping[str, float], target_kl: float | None, gain: float) -> State:
    """The state of a loss with a KL controller, after a step with these means; it moves once for each rollout.

    Args:
        state: holds `beta`.
        means: of the step's metrics; the first step of a rollout has its KL, nats per sequence.
        target_kl: the KL that is wanted; None keeps beta.
        gain: as in `next_beta`.
    """
    if target_kl is None or ROLLOUT_KL not in means:
        return state
    return {**state, "beta": next_beta(state["beta"], means[ROLLOUT_KL], target_kl, gain)}
