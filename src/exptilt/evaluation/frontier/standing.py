"""Where a measured policy stands against the optimum at its own KL and at its own reward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from exptilt.evaluation.frontier.curve import average
from exptilt.evaluation.intervals import Floats, Statistic, divide, finite
from exptilt.evaluation.result import Panel
from exptilt.run_folder.estimate_record import Estimate


class ReadableOptimum(Protocol):
    """The most reward at each KL and the least KL at each reward, for many resamples of the prompts."""

    @property
    def start(self) -> Floats:
        """(X,) reward of the reference."""
        ...

    def reward_at(self, weights: Floats, kl: Floats, times: float = 1.0) -> Floats:
        """(S,) optimal reward at kl[s], with so many times the correction for bias."""
        ...

    def kl_at(self, weights: Floats, reward: Floats, times: float = 1.0) -> Floats:
        """(S,) least KL with reward[s]."""
        ...

    def upper(self, weights: Floats, kl: Floats) -> Floats:
        """(S,) what no policy at kl[s] exceeds."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Position(Panel):
    """Where a policy stands against the optimum; None where the samples cannot say, and `notes` say why."""

    reward_fraction: Estimate | None
    """(R - R_ref) / (R*(KL) - R_ref): share of the possible gain at the policy's own KL."""
    kl_fraction: Estimate | None
    """K*(R) / KL: share of the policy's KL that the optimum needs for the same reward."""
    optimal_reward: Estimate | None
    """R*(KL)."""
    excess: Estimate | None
    """R - R*(KL) with the allowance for the optimum's bias; an interval above 0 means that an estimator is wrong."""
    solid: bool
    """Whether the samples carry the optimum at the policy's KL; if not, intervals are as wide as two corrections are apart."""
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredPolicy:
    """Mean KL (nats) and mean reward of a policy's samples on each prompt, both (X,)."""

    kl: Floats
    reward: Floats

    @classmethod
    def from_arrays(cls, kl: ArrayLike, reward: ArrayLike, num_prompts: int) -> MeasuredPolicy:
        """Check and, where one exact number stands for all prompts, repeat it."""
        shape = (num_prompts,)
        arrays = {"kl": finite(kl, "kl"), "reward": finite(reward, "reward")}
        for name, array in arrays.items():
            if array.shape not in ((), shape):
                raise ValueError(f"{name} must have one value for each of {num_prompts} prompts, got {array.shape}")
        return cls(*(np.broadcast_to(array, shape) for array in arrays.values()))

    def optimum(self, samples: ReadableOptimum, times: float = 1.0) -> Statistic:
        """R*(KL)."""
        return lambda weights: samples.reward_at(weights, average(weights, self.kl), times)

    def excess(self, samples: ReadableOptimum) -> Statistic:
        """R - R*(KL), the allowance for the bias of R* included."""
        return lambda weights: average(weights, self.reward) - samples.upper(weights, average(weights, self.kl))

    def share(self, samples: ReadableOptimum, times: float = 1.0) -> Statistic:
        """(R - R_ref) / (R*(KL) - R_ref)."""

        def statistic(weights: Floats) -> Floats:
            start, best = average(weights, samples.start), self.optimum(samples, times)(weights)
            return divide(average(weights, self.reward) - start, best - start)

        return statistic

    def thrift(self, samples: ReadableOptimum, times: float = 1.0) -> Statistic:
        """K*(R) / KL."""

        def statistic(weights: Floats) -> Floats:
            needed = samples.kl_at(weights, average(weights, self.reward), times)
            return divide(needed, average(weights, self.kl))

        return statistic
