"""The best policy whose units are independent: what a segmenter can reach at each KL from its reference.

The optimum over all policies is `pi_ref exp(r/beta) / Z`. It has independent pixels if the reward is a sum over pixels; for Dice or
IoU it has not, and the best one that has obeys the mean-field equation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import logsumexp

from exptilt.evaluation.frontier.curve import Curves, average
from exptilt.evaluation.frontier.standing import MeasuredPolicy, Position
from exptilt.evaluation.intervals import DEFAULT, Floats, Resampling, bootstrap, bootstraps
from exptilt.run_folder.estimate_record import Estimate

Moments = Callable[[Floats], tuple[float, Floats]]
"""(K, N) probabilities -> expected reward, and (K, N) what each class of each unit adds to it."""

_ITERATIONS = 200
_SETTLED = 1e-7
"""Largest change of a probability at which the equation counts as solved."""
_FAR = 1e9
"""Nats; to where the end of a curve is drawn flat."""


@dataclass(frozen=True)
class FactorisedPolicy:
    """A policy of independent units, and where it is."""

    log_probabilities: Floats
    """(K, N)."""
    reward: float
    kl: float
    """KL(policy || reference), nats, summed over units."""

    def objective(self, beta: float) -> float:
        """E[r] - beta KL."""
        return self.reward - beta * self.kl


def factorised_kl(policy: Floats, reference: Floats) -> float:
    """KL of policies of independent units, the sum of the units', from (K, N) log-probabilities.

    Example:
        >>> round(factorised_kl(np.log([[0.9, 0.5], [0.1, 0.5]]), np.log([[0.5, 0.5], [0.5, 0.5]])), 4)
        0.3681
    """
    return float((np.exp(policy) * (policy - reference)).sum())


def mean_field(reference: Floats, moments: Moments, beta: float, start: Floats | None = None) -> FactorisedPolicy:
    """Solve the equation of the best policy of independent units at one beta, from one start.

        log q_i(k) = log pi_ref,i(k) + E_q[r | y_i = k] / beta + const_i

    A reward that is a sum over units gives the exact optimum in one step. Otherwise all units move at once part of the way, which
    ascends E_q[r] - beta KL(q || pi_ref); a step after which it were lower is halved. The objective may have several maxima:
    `best_factorised` compares two starts.

    Args:
        reference: (K, N) log-probabilities.
        moments: of the reward.
        beta: > 0.
        start: (K, N) log-probabilities; the reference by default.
    """
    logs = reference if start is None else start
    now, adds = _placed(logs, reference, moments)
    step = 1.0
    for _ in range(_ITERATIONS):
        target = _normalised(reference + adds / beta)
        moved, its_adds = _placed(_normalised((1 - step) * logs + step * target), reference, moments)
        if moved.objective(beta) < now.objective(beta) - 1e-13 * max(1.0, abs(now.objective(beta))):
            step /= 2
            if step < 1e-6:
                break
            continue
        change = float(np.abs(np.exp(moved.log_probabilities) - np.exp(logs)).max())
        logs, now, adds, step = moved.log_probabilities, moved, its_adds, min(1.0, 1.5 * step)
        if change < _SETTLED:
            break
    return now


def best_factorised(reference: Floats, moments: Moments, betas: Floats, best: Floats) -> list[FactorisedPolicy]:
    """The best policy of independent units at each of falling betas.

    The equation is followed from the reference to small betas and from the best completion back to large ones, and at each beta
    the better of both is taken.

    Args:
        reference: (K, N) log-probabilities.
        moments: of the reward.
        betas: (B,) falling.
        best: (N,) a completion with the highest reward.
    """
    outward: list[FactorisedPolicy] = []
    for beta in betas.tolist():
        outward.append(mean_field(reference, moments, beta, outward[-1].log_probabilities if outward else None))
    certain = np.full_like(reference, -30.0)
    certain[best, np.arange(reference.shape[1])] = 0.0
    inward: list[FactorisedPolicy] = []
    for beta in betas[::-1].tolist():
        start = inward[-1].log_probabilities if inward else _normalised(certain)
        inward.append(mean_field(reference, moments, beta, start))
    return [
        max(pair, key=lambda policy, at=beta: policy.objective(at))  # type: ignore[misc]
        for beta, *pair in zip(betas.tolist(), outward, reversed(inward), strict=True)
    ]


def falling_betas(
    references: Sequence[Floats], moments: Sequence[Moments], bests: Sequence[Floats], num: int
) -> Floats:
    """(num,) betas from a mean KL of a ten-thousandth of the largest to one near it.

    Args:
        references: (K, N) log-probabilities for each prompt.
        moments: of the reward on each.
        bests: (N,) the best completion of each.
        num: number of betas.

    Raises:
        ValueError: the reward is the same whatever the units are.
    """
    spread, end, least = 0.0, 0.0, math.inf
    for reference, of_prompt, best in zip(references, moments, bests, strict=True):
        probabilities, units = np.exp(reference), np.arange(reference.shape[1])
        _, adds = of_prompt(probabilities)
        centred = adds - (probabilities * adds).sum(0)
        spread += float((probabilities * centred**2).sum())
        of_best = reference[best, units]
        end -= float(of_best.sum())
        certain = np.zeros_like(reference)
        certain[best, units] = 1
        _, at_best = of_prompt(certain)
        others = at_best.copy()
        others[best, units] = -np.inf
        lead = at_best[best, units] - others.max(0)
        needed = 4 - of_best
        least = min(least, float(np.quantile(lead / needed, 0.05)))
    if not (spread > 0 and end > 0):
        raise ValueError("the reward is the same for all masks near the reference's")
    # Near the reference KL = Var(r) / (2 beta^2), and units are independent.
    weak = math.sqrt(spread / (2e-4 * end))
    return np.geomspace(weak, min(max(least, 1e-4 * weak), weak / 2), num)


@dataclass(frozen=True, eq=False, kw_only=True)
class FactorisedOptimum:
    """The most reward that policies of independent units have at each KL, exact for the prompts that were measured.

    Build with `solve`. Both are averaged over prompts at one beta, which is optimal for an average KL; intervals resample prompts.
    """

    betas: Floats
    """(B,) falling."""
    kl: Floats
    """(X, B + 2) at no KL, at each beta, and of the best completion alone, nats."""
    reward: Floats
    """(X, B + 2)."""
    resampling: Resampling = DEFAULT

    @classmethod
    def solve(
        cls,
        references: Sequence[Floats],
        moments: Sequence[Moments],
        bests: Sequence[Any],
        *,
        num_betas: int = 24,
        resampling: Resampling = DEFAULT,
        progress: Callable[[int], None] = lambda done: None,
    ) -> FactorisedOptimum:
        """Solve the mean-field equation on every prompt.

        Args:
            references: (K, N) log-probabilities of the reference on each of X prompts; N may differ.
            moments: of the reward on each.
            bests: (N,) the completion with the highest reward on each.
            num_betas: points of the curve.
            resampling: bootstrap over prompts.
            progress: told the number of prompts done.

        Example:
            >>> moments = lambda p: (float(p[1].mean()), np.stack([0 * p[0], np.full(p.shape[1], 1 / p.shape[1])]))
            >>> coin = FactorisedOptimum.solve([np.log(np.full((2, 1), 0.5))], [moments], [np.array([1])])
            >>> round(float(coin.reward_at(np.ones((1, 1)), np.array([0.3681]))[0]), 2)
            0.9
        """
        betas = falling_betas(references, moments, bests, num_betas)
        kls, rewards = [], []
        for done, (reference, of_prompt, best) in enumerate(zip(references, moments, bests, strict=True), start=1):
            path = best_factorised(reference, of_prompt, betas, best)
            units = np.arange(reference.shape[1])
            certain = np.zeros_like(reference)
            certain[best, units] = 1
            kls.append([0.0, *(policy.kl for policy in path), -float(reference[best, units].sum())])
            rewards.append(
                [
                    of_prompt(np.exp(reference))[0],
                    *(policy.reward for policy in path),
                    of_prompt(certain)[0],
                ]
            )
            progress(done)
        return cls(betas=betas, kl=np.array(kls), reward=np.array(rewards), resampling=resampling)

    @property
    def start(self) -> Floats:
        """(X,) reward of the reference."""
        return np.asarray(self.reward[:, 0])

    @cached_property
    def _ends(self) -> tuple[Floats, Floats]:
        flat = np.full((len(self.kl), 1), _FAR)
        return np.concatenate([self.kl, flat], 1), np.concatenate([self.reward, self.reward[:, -1:]], 1)

    def curves(self, weights: Floats) -> Curves:
        """The curve of each of S resamples, from (S, X) weights."""
        kl, reward = (average(weights, column) for column in self._ends)
        return Curves(np.maximum.accumulate(kl, axis=1), np.maximum.accumulate(reward, axis=1))

    def reward_at(self, weights: Floats, kl: Floats, times: float = 1.0) -> Floats:
        """(S,) the most reward at kl[s] nats; nothing is estimated, so `times` of a correction for bias are none."""
        return self.curves(weights).reward_at(kl)

    def kl_at(self, weights: Floats, reward: Floats, times: float = 1.0) -> Floats:
        """(S,) the least KL with reward[s]."""
        return self.curves(weights).kl_at(reward)

    def upper(self, weights: Floats, kl: Floats) -> Floats:
        """(S,) a bound that no policy of independent units exceeds at kl[s]: min over beta of J*(beta) + beta kl.

        Between points the curve itself is a chord and lies a little below.
        """
        of_beta = average(weights, self.reward[:, 1:-1] - self.betas * self.kl[:, 1:-1])
        bounds = of_beta + self.betas * kl[:, None]
        return np.asarray(np.minimum(bounds.min(axis=1), average(weights, self.reward[:, -1:])[:, 0]))

    def drawn(self) -> tuple[Floats, list[Estimate]]:
        """The mean KLs of the points (rising), and the optimal reward at each with its interval over prompts."""
        kls = np.maximum.accumulate(self.kl.mean(axis=0))

        def rewards(weights: Floats) -> Floats:
            curves = self.curves(weights)
            return np.stack([curves.reward_at(np.full(len(weights), kl)) for kl in kls.tolist()], axis=1)

        return kls, bootstraps(rewards, len(self.kl), self.resampling)

    def position(self, kl: Any, reward: Any) -> Position:
        """Where a policy stands, from its (X,) KL and expected reward on each prompt."""
        policy = MeasuredPolicy.from_arrays(kl, reward, len(self.kl))
        moved = bool(policy.kl.mean() > 0)
        below_top = bool(policy.reward.mean() <= self.reward[:, -1].mean())
        notes = [] if moved else ["it has not moved from the reference, so there is no gain to take a share of"]

        def estimated(statistic: Callable[[Floats], Floats], known: bool) -> Estimate | None:
            return bootstrap(statistic, len(self.kl), self.resampling) if known else None

        return Position(
            reward_fraction=estimated(policy.share(self), moved),
            kl_fraction=estimated(policy.thrift(self), moved and below_top),
            optimal_reward=estimated(policy.optimum(self), True),
            excess=estimated(policy.excess(self), True),
            solid=True,
            notes=tuple(notes),
        )


def _placed(logs: Floats, reference: Floats, moments: Moments) -> tuple[FactorisedPolicy, Floats]:
    reward, adds = moments(np.exp(logs))
    return FactorisedPolicy(logs, reward, factorised_kl(logs, reference)), adds


def _normalised(logs: Floats) -> Floats:
    return np.asarray(logs - logsumexp(logs, axis=0, keepdims=True))
