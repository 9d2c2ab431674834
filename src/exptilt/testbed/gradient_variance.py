"""How noisy the policy gradient of reward and KL is with different baselines, exactly, by listing every completion.

Rafailov et al. (2023) read PPO's instability as a missing baseline: the reward that stands for an optimum carries the term
beta log Z(x), the value of the prompt, and without it the policy gradient has a high variance. Here the term is known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from exptilt.testbed.markov import Floats, MarkovWorld, Samples
from exptilt.testbed.reward_law import positive_beta
from exptilt.testbed.sequences import SequenceLaw, completions


@dataclass(frozen=True)
class GradientVariance:
    """Variances of one-sample policy gradients, summed over all scores of a policy's table, by what is taken off the reward.

    With R = r - beta log pi/pi_ref and s the gradient of log pi(y | x), each is E|(R - b) s|^2 - |E R s|^2, over prompts and
    samples of the policy. No baseline changes the mean.
    """

    none: float
    """b = 0."""
    log_z: float
    """b = beta log Z(x), the best value of E[r] - beta KL that the prompt allows."""
    value: float
    """b = E[R | x], the value of the policy that is trained; what leave-one-out estimates and a critic learns."""
    best: float
    """b = E[R |s|^2 | x] / E[|s|^2 | x], the best that depends on the prompt alone."""
    signal: float
    """|E R s|^2, the squared length of the gradient itself."""


def gradient_variance(world: MarkovWorld, policy: Floats, beta: float) -> GradientVariance:
    """The variances for a policy of a world that is short enough to list.

    At the optimum R is beta log Z for every completion, so with that baseline the variance is zero, and so it is with the value.

    Args:
        world: see `SequenceLaw`; length 5 is listed in a moment.
        policy: (length, V, S, V) log-probabilities.
        beta: price of a nat, > 0.

    Raises:
        ValueError: the world is too long, or beta is not above 0.

    Source: the claim is section 5.2 of https://arxiv.org/abs/2305.18290; the section number is unchecked. The best baseline that is a
        constant is Greensmith et al. (2004).

    Example:
        >>> world = MarkovWorld(length=3)
        >>> at_optimum = gradient_variance(world, world.optimal_policy(0.2), 0.2)
        >>> at_optimum.log_z < 1e-20, round(at_optimum.none, 3)
        (True, 0.644)
    """
    positive_beta(beta)
    law, reference = SequenceLaw.of_table(world, policy), SequenceLaw.of_table(world, world.reference)
    tokens = completions(world)
    rewards = world.rewards(tokens)
    chance = np.exp(law.logps)
    earned = rewards - beta * (law.logps - reference.logps)
    lengths = np.stack([_squared_scores(world, policy, prompt, tokens) for prompt in range(world.num_tokens)])
    log_z = beta * np.log((np.exp(reference.logps) * np.exp(rewards / beta)).sum(axis=1, keepdims=True))
    signal = _squared_mean(world, policy, chance, earned)

    def variance(baseline: Floats | float) -> float:
        noise = (chance * (earned - baseline) ** 2 * lengths).sum(axis=1)
        return float(world.prompt_law @ noise) - signal

    best = (chance * earned * lengths).sum(axis=1, keepdims=True) / (chance * lengths).sum(axis=1, keepdims=True)
    value = (chance * earned).sum(axis=1, keepdims=True)
    return GradientVariance(variance(0.0), variance(log_z), variance(value), variance(best), signal)


def _squared_scores(world: MarkovWorld, policy: Floats, prompt: int, tokens: np.ndarray) -> Floats:
    """(V ** length,) |grad log pi(y | x)|^2 in the table's scores: sum_t 1 - 2 pi(y_t) + sum_v pi(v)^2, as every step has its own."""
    every = Samples(np.full(len(tokens), prompt), tokens)
    picked = np.exp(world.logps(policy, every))
    squares = np.exp(2 * policy).sum(axis=-1)[_places(world, every)]
    total: Floats = (1 - 2 * picked + squares).sum(axis=1)
    return total


def _squared_mean(world: MarkovWorld, policy: Floats, chance: Floats, earned: Floats) -> float:
    """|E R s|^2, the expectation taken over prompts and completions before it is squared."""
    tokens = completions(world)
    mean = np.zeros(world.table_shape)
    for prompt, share in enumerate(world.prompt_law):
        every = Samples(np.full(len(tokens), prompt), tokens)
        places = _places(world, every)
        weight = np.broadcast_to((share * chance[prompt] * earned[prompt])[:, None], tokens.shape)
        np.add.at(mean, (*places, tokens), weight)
        visited = np.zeros(world.table_shape[:3])
        np.add.at(visited, places, weight)
        mean -= visited[..., None] * np.exp(policy)
    return float((mean**2).sum())


def _places(world: MarkovWorld, samples: Samples) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Step, last token and index of the total before each token, each broadcast to (n, length)."""
    last = np.concatenate([samples.prompts[:, None], samples.tokens[:, :-1]], axis=1)
    gained = np.asarray(world.sentiment)[samples.tokens]
    total = gained.cumsum(axis=1) - gained - int(world.totals[0])
    steps = np.broadcast_to(np.arange(world.length)[None, :], last.shape)
    return steps, last, total
