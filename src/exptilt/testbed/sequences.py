"""Any next-token model, made exact on a short world by listing every completion.

A transformer is no function of the world's state, so dynamic programming does not apply. With 6 tokens and length 5
there are 7,776 completions of each of 6 prompts and 9,330 prefixes: few enough to ask the model for all of them, one
call per step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from exptilt.testbed.markov import Floats, MarkovWorld, Samples, Tokens
from exptilt.testbed.reward_law import RewardLaw, positive_beta, relative_entropy

NextToken = Callable[[Tokens], NDArray[np.floating]]
"""Prefixes (n, 1 + t), the prompt first, to probabilities (n, V) of the token that follows."""

MAX_SEQUENCES = 1_000_000


@dataclass(frozen=True, eq=False)
class SequenceLaw:
    """The probability of every completion of every prompt, and the exact quantities that follow.

    Build one with `of` from any callable model, or with `of_table` from a policy of the world. Averages are over
    prompts, in nats.

    Example:
        >>> world = MarkovWorld(length=2)
        >>> reference = SequenceLaw.of_table(world, world.reference)
        >>> uniform = SequenceLaw.of(world, lambda prefixes: np.full((len(prefixes), 6), 1 / 6))
        >>> round(reference.expected_reward(), 4), round(uniform.expected_reward(), 4), round(uniform.kl(reference), 4)
        (0.3303, 0.4431, 0.2322)
        >>> round(reference.tilt(0.5).kl(SequenceLaw.of_table(world, world.optimal_policy(0.5))), 9)
        0.0
    """

    world: MarkovWorld
    logps: Floats
    """(V, V ** length) log-probability of each completion (columns, as in `completions`) given each prompt (rows)."""

    @classmethod
    def of(cls, world: MarkovWorld, model: NextToken) -> SequenceLaw:
        """Ask a model for the distribution after every prefix.

        Args:
            world: a short one; the number of prompts times completions is at most 1,000,000.
            model: see `NextToken`. A model that knows more tokens than the world (an end token) must be restricted to
                the world's and renormalised by the caller, who thereby leaves out what it puts elsewhere.

        Raises:
            ValueError: if the world is too long to list, or the model's rows are not distributions over its tokens.
        """
        size = world.num_tokens
        _refuse_long(world)
        prefixes = np.arange(size)[:, None]
        logps = np.zeros(size)
        for _ in range(world.length):
            step = np.asarray(model(prefixes), dtype=np.float64)
            _check_rows(step, (len(prefixes), size))
            with np.errstate(divide="ignore"):
                logps = (logps[:, None] + np.log(step)).ravel()
            prefixes = np.column_stack([np.repeat(prefixes, size, axis=0), np.tile(np.arange(size), len(prefixes))])
        return cls(world, logps.reshape(size, -1))

    @classmethod
    def of_table(cls, world: MarkovWorld, policy: Floats) -> SequenceLaw:
        """The law of a policy given as a table of the world."""
        _refuse_long(world)
        tokens = completions(world)
        rows = [
            world.logps(policy, Samples(np.full(len(tokens), prompt), tokens)) for prompt in range(world.num_tokens)
        ]
        return cls(world, np.stack([row.sum(axis=1) for row in rows]))

    def expected_reward(self) -> float:
        """Exact E[r]."""
        return self.reward_law().mean

    def reward_law(self) -> RewardLaw:
        """Exact distribution of the reward."""
        return RewardLaw.of(self._rewards, self.world.prompt_law @ np.exp(self.logps))

    def kl(self, reference: SequenceLaw) -> float:
        """Exact KL(self || reference), averaged over prompts."""
        return float(self.world.prompt_law @ relative_entropy(self.logps, reference.logps).sum(axis=1))

    def log_z(self, beta: float) -> float:
        """E over prompts of log E exp(r / beta), with this law as the reference."""
        return float(self.world.prompt_law @ logsumexp(self.logps + self._rewards / positive_beta(beta), axis=1))

    def tilt(self, beta: float) -> SequenceLaw:
        """The optimum of E[r] - beta * KL with this law as the reference, which may be a trained model's."""
        scores = self.logps + self._rewards / positive_beta(beta)
        return replace(self, logps=scores - logsumexp(scores, axis=1, keepdims=True))

    @property
    def _rewards(self) -> Floats:
        return self.world.rewards(completions(self.world))


def completions(world: MarkovWorld) -> Tokens:
    """(V ** length, length) every completion of the world, the last token running fastest."""
    digits = np.indices((world.num_tokens,) * world.length).reshape(world.length, -1)
    return np.ascontiguousarray(digits.T, dtype=np.int64)


def _refuse_long(world: MarkovWorld) -> None:
    count = world.num_tokens ** (world.length + 1)
    if count > MAX_SEQUENCES:
        raise ValueError(
            f"this world has {count:,} sequences, too many to list (at most {MAX_SEQUENCES:,}); use length=5"
        )


def _check_rows(rows: Floats, shape: tuple[int, int]) -> None:
    if rows.shape != shape:
        raise ValueError(f"the model must return probabilities of shape {shape}, got {rows.shape}")
    if not (rows >= 0).all() or not np.allclose(rows.sum(axis=1), 1.0, atol=1e-4):
        raise ValueError("the model must return probabilities that sum to 1 over the world's tokens; renormalise them")
