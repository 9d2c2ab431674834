"""A Markov "language" whose rewards, divergences and optimal policies are exact, by dynamic programming.

A prompt is one token. A completion is `length` further tokens, each drawn given the one before it. Every token has an
integer sentiment, and the reward is a function of the completion's total. All that matters about a prefix is the state

    (t, last token, total so far)

and any policy that is a function of the state is a table of log-probabilities (length, V, S, V): step, last token,
total, next token. The optimum of KL-constrained reward maximisation is such a table, too.
Shape letters: V tokens, S totals, n sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import expit, log_softmax, logsumexp

from exptilt.testbed.reward_law import RewardLaw, check_probabilities, positive_beta, relative_entropy

Floats = NDArray[np.float64]
Tokens = NDArray[np.int64]

# Rows: last token; columns: next token; in twentieths. Moods last, and good ones are rare, so there is much to gain:
# E[r] is 0.11 under the reference, and reaching 0.94 costs 2.9 nats.
MOODS = (
    (5, 5, 4, 3, 2, 1),
    (4, 5, 4, 4, 2, 1),
    (3, 5, 4, 5, 2, 1),
    (3, 4, 4, 5, 3, 1),
    (2, 4, 4, 5, 4, 1),
    (2, 3, 4, 5, 4, 2),
)
SENTIMENT = (-2, -1, -1, 0, 1, 2)


class Samples(NamedTuple):
    """Sequences drawn from a policy."""

    prompts: Tokens
    """(n,) the token each completion starts from."""
    tokens: Tokens
    """(n, length) completions."""


@dataclass(frozen=True, eq=False, kw_only=True)
class MarkovWorld:
    """The exactly solvable world: a reference policy, a reward, and every quantity the theory speaks of.

    Quantities are averages over the prompts' distribution, in nats; `at(prompt)` gives the same world with one prompt.
    For any policy and any beta, with J = E[r] - beta * KL(policy || reference),

        max J = beta * log Z      max J - J(policy) = beta * KL(policy || optimal)      dE[r]/dKL = beta on the frontier

    The default reward is sigmoid(total), in (0, 1); any function of the total will do, such as
    `lambda total: 0.5 * total`.

    Source: the optimum and its identities are those of Rafailov et al. (2023), https://arxiv.org/abs/2305.18290, eq. 4.

    Example:
        >>> world = MarkovWorld(length=5)
        >>> policy = world.optimal_policy(beta=0.2)
        >>> reward, kl = world.expected_reward(policy), world.kl(policy)
        >>> round(reward - 0.2 * kl, 9) == round(0.2 * world.log_z(0.2), 9)
        True
    """

    length: int = 10
    """Tokens in a completion, >= 1."""
    transition: ArrayLike = tuple(tuple(count / 20 for count in row) for row in MOODS)
    """(V, V) reference probability of the next token (column) after the last one (row)."""
    sentiment: Sequence[int] = SENTIMENT
    """(V,) integer sentiment of each token."""
    prompts: ArrayLike | None = None
    """(V,) probability of each prompt; None is uniform."""
    reward_of_total: Callable[[Floats], Floats] = expit
    """Reward of a completion as an elementwise function of its total sentiment."""

    def __post_init__(self) -> None:
        """Check shapes and that probabilities sum to 1."""
        if self.length < 1:
            raise ValueError(f"length must be >= 1, got {self.length}")
        size = len(self.sentiment)
        if self._transition.shape != (size, size):
            raise ValueError(
                f"transition must be ({size}, {size}), as sentiment has {size} tokens, got {self._transition.shape}"
            )
        if self.prompt_law.shape != (size,):
            raise ValueError(f"prompts must be ({size},), got {self.prompt_law.shape}")
        check_probabilities("transition", self._transition)
        check_probabilities("prompts", self.prompt_law)
        if not np.isfinite(self._total_rewards).all():
            raise ValueError("reward_of_total must be finite at every total")

    # What the world is made of

    @property
    def num_tokens(self) -> int:
        """Size of the vocabulary, V."""
        return len(self.sentiment)

    @cached_property
    def prompt_law(self) -> Floats:
        """(V,) probability of each prompt."""
        if self.prompts is None:
            return np.full(self.num_tokens, 1.0 / self.num_tokens)
        return np.asarray(self.prompts, dtype=np.float64)

    @cached_property
    def reference(self) -> Floats:
        """(length, V, S, V) log-probabilities of the reference policy."""
        with np.errstate(divide="ignore"):
            logps = np.log(self._transition)
        return np.broadcast_to(logps[None, :, None, :], self.table_shape)

    @property
    def table_shape(self) -> tuple[int, int, int, int]:
        """Shape of a policy's table: step, last token, total so far, next token."""
        return (self.length, self.num_tokens, len(self.totals), self.num_tokens)

    @cached_property
    def totals(self) -> Tokens:
        """(S,) every total a prefix can have, in rising order; the third axis of a policy's table."""
        low, high = min(0, *self.sentiment), max(0, *self.sentiment)
        return np.arange(self.length * low, self.length * high + 1)

    def at(self, prompt: int) -> MarkovWorld:
        """The same world with this one prompt."""
        return replace(self, prompts=np.eye(self.num_tokens)[prompt])

    def policy_from_logits(self, logits: ArrayLike) -> Floats:
        """(length, V, S, V) log-probabilities from scores that broadcast to that shape."""
        scores = np.broadcast_to(np.asarray(logits, dtype=np.float64), self.table_shape)
        logps: Floats = log_softmax(scores, axis=-1)
        return logps

    # Exact quantities

    def expected_reward(self, policy: Floats) -> float:
        """Exact E[r] of a policy."""
        return self.reward_law(policy).mean

    def reward_law(self, policy: Floats) -> RewardLaw:
        """Exact distribution of the reward under a policy."""
        return RewardLaw.of(self._total_rewards, self._occupancy(policy)[-1].sum(axis=0))

    def kl(self, policy: Floats, reference: Floats | None = None) -> float:
        """Exact sequence-level KL(policy || reference), nats; infinite where only the policy can go.

        Args:
            policy: (length, V, S, V) log-probabilities.
            reference: another such table, or None for the world's own reference.
        """
        other = self._checked(self.reference if reference is None else reference)
        per_state = relative_entropy(self._checked(policy), other).sum(axis=-1)
        visited = self._occupancy(policy)[:-1]
        return float((visited * np.where(visited > 0, per_state, 0.0)).sum())

    def log_z(self, beta: float) -> float:
        """E over prompts of log Z(x), Z(x) = E_reference exp(r / beta)."""
        return self._tilt(self._total_rewards / positive_beta(beta))[1]

    def optimal_policy(self, beta: float) -> Floats:
        """The table of reference(y|x) exp(r / beta) / Z(x), the maximiser of E[r] - beta * KL."""
        return self._tilt(self._total_rewards / positive_beta(beta))[0]

    def frontier(self, betas: ArrayLike) -> tuple[Floats, Floats]:
        """(KL, E[r]) of the optimum at each beta, two arrays of the shape of `betas`."""
        values = np.asarray(betas, dtype=np.float64)
        optima = [self.optimal_policy(float(beta)) for beta in values.ravel()]
        kls = np.array([self.kl(policy) for policy in optima])
        rewards = np.array([self.expected_reward(policy) for policy in optima])
        return kls.reshape(values.shape), rewards.reshape(values.shape)

    def optimal_reward(self, kl: float) -> float:
        """The largest E[r] any policy can reach within this KL; beta is solved for, nothing is interpolated.

        Raises:
            ValueError: if the KL is negative, or so large that the optimum stands still numerically.
        """
        if kl < 0:
            raise ValueError(f"kl must be >= 0, got {kl}")
        if kl == 0:
            return self.expected_reward(self.reference)
        spread = float(np.ptp(self.reward_law(self.reference).rewards))
        low, high = np.log(1e-8 * spread), np.log(1e4 * spread)

        def excess(log_beta: float) -> float:
            return float(self.frontier(np.exp(log_beta))[0]) - kl

        if excess(low) < 0:
            raise ValueError(
                f"kl must be below {excess(low) + kl:.4g} nats, where this world's frontier ends, got {kl}"
            )
        if excess(high) > 0:
            return self.expected_reward(self.reference)
        return float(self.frontier(np.exp(brentq(excess, low, high, xtol=1e-13)))[1])

    def best_of(self, num: int) -> tuple[float, float]:
        """Exact (KL, E[r]) of the best of `num` reference samples, ties broken by a fair coin."""
        kls, rewards = np.zeros(self.num_tokens), np.zeros(self.num_tokens)
        for prompt in np.flatnonzero(self.prompt_law):
            law = self.at(int(prompt)).reward_law(self.reference)
            kls[prompt], rewards[prompt] = law.best_of_kl(num), law.best_of(num).mean
        return float(self.prompt_law @ kls), float(self.prompt_law @ rewards)

    # Sequences

    def sample(
        self, num: int, rng: np.random.Generator, policy: Floats | None = None, prompts: Tokens | None = None
    ) -> Samples:
        """Draw `num` sequences.

        Args:
            num: how many.
            rng: where the randomness comes from.
            policy: (length, V, S, V) log-probabilities; None is the reference.
            prompts: (num,) prompts to answer; None draws them.
        """
        table = np.exp(self._checked(self.reference if policy is None else policy))
        if prompts is None:
            prompts = rng.choice(self.num_tokens, size=num, p=self.prompt_law)
        last, total = prompts, np.full(num, self._zero)
        tokens = np.empty((num, self.length), dtype=np.int64)
        for step in range(self.length):
            cumulative = table[step, last, total].cumsum(axis=1)
            draw = rng.random((num, 1)) * cumulative[:, -1:]
            tokens[:, step] = last = (draw >= cumulative).sum(axis=1)
            total = total + np.asarray(self.sentiment)[last]
        return Samples(np.asarray(prompts, dtype=np.int64), tokens)

    def rewards(self, tokens: Tokens) -> Floats:
        """(n,) rewards of (n, length) completions."""
        picked: Floats = self._total_rewards[self._zero + np.asarray(self.sentiment)[tokens].sum(axis=1)]
        return picked

    def logps(self, policy: Floats, samples: Samples) -> Floats:
        """(n, length) log-probability of each token of each completion under a policy, nats."""
        last = np.concatenate([samples.prompts[:, None], samples.tokens[:, :-1]], axis=1)
        gained = np.asarray(self.sentiment)[samples.tokens]
        total = self._zero + gained.cumsum(axis=1) - gained
        picked: Floats = self._checked(policy)[np.arange(self.length)[None, :], last, total, samples.tokens]
        return picked

    # The dynamic programme

    @cached_property
    def _transition(self) -> Floats:
        return np.asarray(self.transition, dtype=np.float64)

    @property
    def _zero(self) -> int:
        return int(np.flatnonzero(self.totals == 0)[0])

    @cached_property
    def _total_rewards(self) -> Floats:
        return np.asarray(self.reward_of_total(self.totals.astype(np.float64)), dtype=np.float64)

    @cached_property
    def _next_total(self) -> Tokens:
        """(S, V) index of the total after a token; clipped where no prefix can be."""
        after = np.arange(len(self.totals))[:, None] + np.asarray(self.sentiment)[None, :]
        clipped: Tokens = np.clip(after, 0, len(self.totals) - 1)
        return clipped

    def _tilt(self, log_weight: Floats) -> tuple[Floats, float]:
        """The reference reweighted by exp(log_weight[total]), backward in time, and E log of the normaliser."""
        policy = np.empty(self.table_shape)
        log_value = np.broadcast_to(log_weight, self.table_shape[1:3])
        for step in reversed(range(self.length)):
            after = log_value[np.arange(self.num_tokens)[None, :], self._next_total]
            scores = self.reference[step] + after[None]
            log_value = logsumexp(scores, axis=-1)
            policy[step] = log_softmax(scores, axis=-1)
        return policy, float(self.prompt_law @ log_value[:, self._zero])

    def _occupancy(self, policy: Floats) -> Floats:
        """(length + 1, V, S) probability of each state at each step, forward in time."""
        table = np.exp(self._checked(policy))
        mass = np.zeros((self.length + 1, *self.table_shape[1:3]))
        mass[0, :, self._zero] = self.prompt_law
        for step in range(self.length):
            joint = np.einsum("vs,vsw->sw", mass[step], table[step])
            np.add.at(mass[step + 1], (np.arange(self.num_tokens)[None, :], self._next_total), joint)
        return mass

    def _checked(self, policy: Floats) -> Floats:
        if policy.shape != self.table_shape:
            raise ValueError(f"a policy of this world has shape {self.table_shape}, got {policy.shape}")
        if not np.allclose(logsumexp(policy, axis=-1), 0.0, atol=1e-9):
            raise ValueError("a policy is a table of log-probabilities; make scores into one with policy_from_logits")
        return policy
