"""The reward-KL frontier: the most reward any policy can have at a given KL from the reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from exptilt.evaluation.frontier.comparable import Provenance
from exptilt.evaluation.frontier.curve import TiltedSamples, average
from exptilt.evaluation.frontier.standing import MeasuredPolicy, Position
from exptilt.evaluation.frontier.tilting import beta_grid, checked_rewards, mixture_log_base
from exptilt.evaluation.intervals import (
    DEFAULT,
    Floats,
    Resampling,
    Statistic,
    bootstrap,
    bootstraps,
    finite,
)
from exptilt.evaluation.measured_coverage import Method, measured_coverage
from exptilt.evaluation.result import plain
from exptilt.run_folder.estimate_record import Estimate


@dataclass(frozen=True, eq=False, kw_only=True)
class OptimalFrontier:
    """The optimum pi_ref exp(r/beta) / Z of KL-constrained reward maximisation, for all beta.

    On each prompt the samples get weights w = exp(r/beta) / sum exp(r/beta) (self-normalised importance sampling):

        R = sum w r        K = R/beta - log mean exp(r/beta) = log M - H(w)        dR/dK = beta

    Both are averaged over prompts at one beta, which is optimal for an average KL.

    **What M samples show is too low**, since they cannot show more than log M nats, nor more than their best reward. With a
    Gaussian reward and M = 64 the reward at a given KL is 1.5 % low at 0.2 log M, 3.5 % at 0.35 log M, 15 % at 0.9 log M.
    So rewards and KLs are corrected by the change from M/2 to M samples, which removes a bias that falls like 1/M. Up to
    `solid_kl` that is enough. Beyond, an interval runs from the low end of this correction to the high end of twice of
    it, which Gaussian rewards need. Nothing is shown above 0.9 log M, nothing is extrapolated, and `upper_reward_at` is
    an upper bound. All this holds for rewards that are bounded or have light tails; where rare samples carry the mean
    (rewards like e^normal) they are missed, and no correction can know. State the scale.

    Build with `from_samples`, `from_mixture` (reaches farther) or `from_law` (exact).
    Source: Rafailov et al. (2023), eq. 4; required M is about e^KL (Chatterjee and Diaconis, 2018).

    Example:
        >>> coin = OptimalFrontier.from_law([[0.0, 1.0]] * 8, [[0.5, 0.5]] * 8)
        >>> round(coin.reward_at(0.3681).value, 3), coin.limit_kl
        (0.9, inf)
    """

    samples: TiltedSamples
    provenance: Provenance | None
    resampling: Resampling

    @classmethod
    def from_samples(
        cls,
        rewards: ArrayLike,
        betas: ArrayLike | None = None,
        *,
        provenance: Provenance | None = None,
        resampling: Resampling = DEFAULT,
    ) -> OptimalFrontier:
        """Build from M samples of the reference on each of X prompts.

        Args:
            rewards: (X, M), finite, M >= 4; M >= e^KL for the KL of interest.
            betas: points wanted besides the automatic grid.
            provenance: of the samples; if given, `fraction` and `gap` require the policy's and compare.
            resampling: bootstrap over prompts.

        Raises:
            ValueError: rewards that are not finite or nowhere vary, too few samples, a prompt without samples.
        """
        checked = checked_rewards(rewards)
        base = np.full_like(checked, -math.log(checked.shape[1]))
        return cls._build(checked, base, betas, resampling, provenance)

    @classmethod
    def from_mixture(
        cls,
        rewards: ArrayLike,
        log_reference: ArrayLike,
        log_policies: ArrayLike,
        counts: Sequence[int],
        *,
        betas: ArrayLike | None = None,
        provenance: Provenance | None = None,
        resampling: Resampling = DEFAULT,
    ) -> OptimalFrontier:
        """Build from samples pooled from the reference and trained policies, which reach KLs far above log M.

        The weights are w = pi_ref exp(r/beta) / sum_k alpha_k pi_k; see `tilting.mixture_log_base` for the arguments.
        Columns hold the reference's samples first, then each policy's.
        """
        checked = checked_rewards(rewards)
        base = mixture_log_base(log_reference, log_policies, list(counts))
        if base.shape != checked.shape:
            raise ValueError(f"rewards have shape {checked.shape}, log-probabilities {base.shape}")
        return cls._build(checked, base, betas, resampling, provenance)

    @classmethod
    def from_law(
        cls,
        rewards: ArrayLike,
        probabilities: ArrayLike,
        betas: ArrayLike | None = None,
        *,
        resampling: Resampling = DEFAULT,
    ) -> OptimalFrontier:
        """Build exactly from rewards (X, Y) and the reference's probabilities (X, Y) of all Y completions."""
        checked = checked_rewards(rewards, least=2)
        law = finite(probabilities, "probabilities")
        if law.shape != checked.shape or (law < 0).any() or not np.allclose(law.sum(axis=1), 1):
            raise ValueError(f"probabilities must have shape {checked.shape} and sum to 1 on each prompt")
        with np.errstate(divide="ignore"):
            return cls._build(checked, np.log(law), betas, resampling, exact=True)

    @classmethod
    def _build(
        cls,
        rewards: Floats,
        base: Floats,
        betas: ArrayLike | None,
        resampling: Resampling,
        provenance: Provenance | None = None,
        exact: bool = False,
    ) -> OptimalFrontier:
        grid = beta_grid(rewards, base)
        if betas is not None:
            wanted = finite(betas, "betas")
            if wanted.ndim != 1 or (wanted <= 0).any():
                raise ValueError(f"betas must be a list of numbers > 0, got {wanted.tolist()}")
            grid = np.union1d(grid, wanted)[::-1]
        samples = TiltedSamples(rewards=rewards, log_base=base, betas=grid, exact=exact)
        return cls(samples=samples, provenance=provenance, resampling=resampling)

    @property
    def num_prompts(self) -> int:
        """X."""
        return len(self.samples.rewards)

    @property
    def betas(self) -> Floats:
        """(B,) falling: the automatic grid and the points asked for."""
        return self.samples.betas

    @property
    def kl(self) -> Floats:
        """(B,) mean KL(pi* || pi_ref) in nats at each beta, rising."""
        return np.asarray(self.samples.tilts.kl.mean(axis=0))

    @property
    def reward(self) -> Floats:
        """(B,) mean reward of pi* at each beta, rising, as the samples show it: too low; `drawn` corrects it."""
        return np.asarray(self.samples.tilts.value.mean(axis=0))

    @property
    def limit_kl(self) -> float:
        """Nothing is known beyond this KL; 0.9 log M for samples of the reference alone."""
        return self.samples.limit_kl

    @property
    def solid_kl(self) -> float:
        """Draw the optimum solid up to this KL (0.35 log M, and median ESS >= 10), dashed from there to `limit_kl`."""
        return self.samples.solid_kl

    @property
    def reference_reward(self) -> Estimate:
        """Mean reward of the reference."""
        return self._estimate(lambda weights: average(weights, self.samples.start))

    def reward_at(self, kl: float) -> Estimate:
        """R*(kl), the most reward a policy at `kl` nats can have.

        Raises:
            ValueError: beyond `limit_kl`; nothing is extrapolated.
        """
        self._require_covered(kl)
        return self._corrected(
            lambda weights, times: self.samples.reward_at(weights, np.full(len(weights), kl), times), kl
        )

    def upper_reward_at(self, kl: float) -> float:
        """Upper end of the interval of R*(kl), an allowance for its bias included: no true policy lies above.

        The allowance is twice the change of R*(kl) from M/2 to M samples; once would do if the bias fell like 1/M.
        """
        self._require_covered(kl)
        upper = self._estimate(lambda weights: self.samples.upper(weights, np.full(len(weights), kl))).high
        return math.inf if upper is None else upper

    def kl_at(self, reward: float) -> Estimate:
        """K*(reward), the least KL in nats at which a policy can have this reward; 0 up to the reference's own.

        Raises:
            ValueError: above what is reached at `limit_kl`.
        """
        top = self.samples.top_reward
        if not reward <= top:
            raise ValueError(f"a reward of {reward:g} is above {top:g}, the most these samples can show: draw more")
        whole = np.ones((1, self.num_prompts))
        at = float(self.samples.kl_at(whole, np.array([reward]))[0])
        return self._corrected(
            lambda weights, times: self.samples.kl_at(weights, np.full(len(weights), reward), times), at
        )

    def beta_at(self, kl: float) -> float:
        """The beta whose optimum has this KL: the slope of the frontier there, reward for each nat."""
        low, high = self.kl[0], min(self.limit_kl, self.kl[-1])
        if not low <= kl <= high:
            raise ValueError(f"no beta has its optimum at {kl:g} nats: they reach from {low:g} to {high:g}")
        return float(np.exp(np.interp(math.sqrt(kl), np.sqrt(self.kl), np.log(self.betas))))

    def fraction(self, kl: ArrayLike, reward: ArrayLike, provenance: Provenance | None = None) -> Position:
        """Where a policy stands; prompts are resampled jointly for the policy and the optimum.

        Args:
            kl: (X,) mean KL(policy || reference) of the policy's samples on each prompt, nats; or one exact number.
            reward: (X,) mean reward on each prompt; or one exact number.
            provenance: of the policy's numbers; required if the frontier has one.
        """
        policy = self._policy(kl, reward, provenance)
        at_kl, at_reward = policy.kl.mean(), policy.reward.mean()
        samples, top, notes = self.samples, self.samples.top_reward, []
        kl_known, reward_known = bool(at_kl <= self.limit_kl), bool(at_reward <= top)
        if not kl_known:
            notes.append(f"its KL of {at_kl:.3g} nats is beyond the {self.limit_kl:.3g} that these samples can show")
        if not reward_known:
            notes.append(f"its reward of {at_reward:.4g} is above the {top:.4g} that these samples can show")
        if not at_kl > 0:
            notes.append("it has not moved from the reference, so there is no gain to take a share of")

        def corrected(statistic: Callable[[TiltedSamples, float], Statistic], known: bool) -> Estimate | None:
            return self._corrected(lambda weights, times: statistic(samples, times)(weights), at_kl) if known else None

        return Position(
            reward_fraction=corrected(policy.share, kl_known and bool(at_kl > 0)),
            kl_fraction=corrected(policy.thrift, reward_known and bool(at_kl > 0)),
            optimal_reward=corrected(policy.optimum, kl_known),
            excess=self._estimate(policy.excess(samples)) if kl_known else None,
            solid=bool(at_kl <= self.solid_kl),
            notes=tuple(notes),
        )

    def gap(self, beta: float, kl: ArrayLike, reward: ArrayLike, provenance: Provenance | None = None) -> Estimate:
        """J* - J(policy) = beta * KL(policy || pi*_beta), by how much the policy misses the best objective.

            beta * (KL(policy || reference) + log Z) - E r

        Never negative; log Z is corrected for its bias of about -(1/ESS - 1/M) / 2. Arguments as in `fraction`.
        """
        if not beta > 0:
            raise ValueError(f"beta must be > 0, got {beta}")
        policy = self._policy(kl, reward, provenance)
        parts = {times: self.samples.log_partition(beta, times) for times in (1.0, 2.0)}
        return self._corrected(
            lambda weights, times: average(weights, beta * (policy.kl + parts[times]) - policy.reward),
            float(max(policy.kl.mean(), np.interp(-beta, -self.betas, self.kl))),
        )

    def drawn(self) -> tuple[Floats, list[Estimate]]:
        """The KLs (rising) of the grid up to `limit_kl`, and the corrected optimal reward at each.

        The optimum's slope falls, and so does the line's: what the correction adds where the solid part ends is taken off.
        """
        kls = self.kl[self.kl <= self.limit_kl]
        found = bootstraps(partial(self.samples.rewards_at, kls=kls), self.num_prompts, self.resampling)
        once, twice = found[: len(kls)], found[len(kls) :]
        corrected = [
            one if kl <= self.solid_kl else _between(one, two)
            for kl, one, two in zip(kls.tolist(), once, twice, strict=True)
        ]
        values = falling_slopes(kls.tolist(), [estimate.value or 0.0 for estimate in corrected])
        return kls, [
            self._marked(
                estimate.model_copy(update={"value": value}), "frontier" if kl <= self.solid_kl else "frontier beyond"
            )
            for kl, estimate, value in zip(kls.tolist(), corrected, values, strict=True)
        ]

    def as_dict(self) -> dict[str, Any]:
        """The points up to `limit_kl` with their band and diagnostics, as plain values (an infinite limit is None)."""
        shown, (kls, rewards), ess = (
            self.kl <= self.limit_kl,
            self.drawn(),
            self.samples.tilts.ess[:, self.kl <= self.limit_kl],
        )
        columns = {
            "beta": self.betas[shown],
            "kl": kls,
            "reward": [one.value for one in rewards],
            "reward_low": [one.low for one in rewards],
            "reward_high": [one.high for one in rewards],
            "ess_median": np.median(ess, axis=0),
            "ess_min": ess.min(axis=0),
            "share_ess_below_5": (ess < 5).mean(axis=0),
        }
        found: dict[str, Any] = {
            "num_prompts": self.num_prompts,
            "num_samples": self.samples.rewards.shape[1],
            "limit_kl": self.limit_kl,
            "solid_kl": self.solid_kl,
            "reference_reward": self.reference_reward,
            "points": columns,
        }
        return {name: plain(value) for name, value in found.items()}

    def _estimate(self, statistic: Statistic) -> Estimate:
        return self._marked(bootstrap(statistic, self.num_prompts, self.resampling))

    def _corrected(self, statistic: Callable[[Floats, float], Floats], kl: float) -> Estimate:
        """A statistic of weights and of how often the correction is added; at `kl` nats."""
        once = self._estimate(lambda weights: statistic(weights, 1.0))
        if kl <= self.solid_kl:
            return once
        both = _between(once, self._estimate(lambda weights: statistic(weights, 2.0)))
        return self._marked(both, "frontier beyond")

    def _marked(self, found: Estimate, method: Method = "frontier") -> Estimate:
        """With the coverage that was measured for frontiers from samples, which is not that of a plain mean."""
        if self.samples.exact or found.interval is None:
            return found
        covers = measured_coverage(method, self.num_prompts, self.resampling.level)
        return found.model_copy(update={"coverage": covers})

    def _require_covered(self, kl: float) -> None:
        if not 0 <= kl <= self.limit_kl:
            raise ValueError(
                f"a KL of {kl:g} nats is outside [0, {self.limit_kl:.3g}], what these samples can show: draw more, "
                "or pool samples of trained policies (from_mixture)"
            )

    def _policy(self, kl: ArrayLike, reward: ArrayLike, provenance: Provenance | None) -> MeasuredPolicy:
        if self.provenance is not None:
            if provenance is None:
                raise ValueError("the frontier knows where its samples come from: give the policy's provenance as well")
            self.provenance.require_match(provenance, "the frontier")
        return MeasuredPolicy.from_arrays(kl, reward, self.num_prompts)


def _between(once: Estimate, twice: Estimate) -> Estimate:
    """The value of the first with the outer ends of both."""
    if once.interval is None or twice.interval is None:
        return once
    ends = (*once.interval, *twice.interval)
    return once.model_copy(update={"low": min(ends), "high": max(ends)})


def falling_slopes(kls: Sequence[float], rewards: Sequence[float]) -> list[float]:
    """Rewards at rising KLs, lowered where a slope is larger than the one before it, which no optimum's is.

    Example:
        >>> falling_slopes([0.0, 1.0, 2.0, 4.0], [0.0, 1.0, 2.5, 3.0])
        [0.0, 1.0, 2.0, 3.0]
    """
    falling: list[float] = []
    for position, (kl, reward) in enumerate(zip(kls, rewards, strict=True)):
        if position < 2 or kls[position - 1] == kls[position - 2]:
            falling.append(reward)
            continue
        before, step = kls[position - 1], kls[position - 1] - kls[position - 2]
        slope = (falling[-1] - falling[-2]) / step
        falling.append(min(reward, falling[-1] + slope * (kl - before)))
    return falling
