"""Length: in the preferences, in samples before and after, and how much of the implicit reward is length."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from exptilt.evaluation.intervals import (
    DEFAULT,
    Clusters,
    Floats,
    Prompts,
    Resampling,
    bootstrap,
    divide,
    finite,
    mean,
    paired_difference,
)
from exptilt.evaluation.pairs.accuracy import share_above_zero
from exptilt.evaluation.result import Panel
from exptilt.run_folder.estimate_record import Estimate
from exptilt.run_folder.evaluation_record import LengthSlope


@dataclass(frozen=True, slots=True, kw_only=True)
class PairLengths(Panel):
    """Lengths in preferences, tokens."""

    chosen: Estimate
    rejected: Estimate
    difference: Estimate
    """Mean of chosen - rejected, paired."""
    chosen_longer: Estimate
    """Share of pairs whose chosen side is longer, equal lengths counting one half."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleLengths(Panel):
    """Lengths of samples, tokens."""

    mean: Estimate
    ended: Estimate
    """Share that ended by an end token; the rest was cut at the sampling law's `max_new_tokens`."""
    mean_of_ended: Estimate | None
    """None if none ended; a mean over all is too low where many are cut."""


def pair_lengths(
    chosen: ArrayLike, rejected: ArrayLike, prompts: Prompts, resampling: Resampling = DEFAULT
) -> PairLengths:
    """Lengths of the two sides of N preferences.

    Args:
        chosen: (N,) tokens.
        rejected: (N,) tokens.
        prompts: (N,) the prompt of each pair.
        resampling: bootstrap over prompts.

    Example:
        >>> found = pair_lengths([10, 20, 30], [10, 10, 30], ["a", "b", "c"])
        >>> round(found.difference.value, 4), round(found.chosen_longer.value, 4)
        (3.3333, 0.6667)
    """
    gap = finite(chosen, "chosen") - finite(rejected, "rejected")
    return PairLengths(
        chosen=mean(chosen, prompts, resampling),
        rejected=mean(rejected, prompts, resampling),
        difference=mean(gap, prompts, resampling),
        chosen_longer=share_above_zero(gap, Clusters(prompts), resampling),
    )


def sample_lengths(
    lengths: ArrayLike, ended: ArrayLike, prompts: Prompts, resampling: Resampling = DEFAULT
) -> SampleLengths:
    """Lengths of N samples, and how many ended by themselves.

    Args:
        lengths: (N,) tokens, the end token included.
        ended: (N,) bool, `Sample.ended`.
        prompts: (N,) the prompt of each sample.
        resampling: bootstrap over prompts.

    Example:
        >>> found = sample_lengths([3, 5, 8, 8], [True, True, False, False], ["a", "b", "c", "d"])
        >>> found.mean.value, found.ended.value, found.mean_of_ended.value
        (6.0, 0.5, 4.0)
    """
    tokens, whole = finite(lengths, "lengths"), np.asarray(ended, dtype=np.bool_)
    if whole.shape != tokens.shape:
        raise ValueError(f"ended must have one entry for each of {len(tokens)} samples, got {whole.shape}")
    return SampleLengths(
        mean=mean(tokens, prompts, resampling),
        ended=share_above_zero(whole * 2.0 - 1, Clusters(prompts), resampling),
        mean_of_ended=mean(tokens[whole], np.asarray(prompts)[whole], resampling) if whole.any() else None,
    )


def length_change(
    before: ArrayLike,
    after: ArrayLike,
    prompts_before: Prompts,
    prompts_after: Prompts,
    resampling: Resampling = DEFAULT,
) -> Estimate:
    """Mean over prompts of the change of mean length from samples before to samples after training, tokens.

    Raises:
        ValueError: if the two do not have the same prompts.
    """
    first, second = Clusters(prompts_before), Clusters(prompts_after)
    names = [clusters.labels.tolist() for clusters in (first, second)]
    if sorted(names[0]) != sorted(names[1]):
        raise ValueError(f"samples before and after are of different prompts ({first.count} and {second.count})")
    order = [names[1].index(name) for name in names[0]]
    return paired_difference(second.means(after)[order], first.means(before), np.arange(first.count), resampling)


def reward_on_length(
    rewards: ArrayLike, lengths: ArrayLike, prompts: Prompts, resampling: Resampling = DEFAULT
) -> LengthSlope:
    """Least-squares line of implicit rewards on lengths, over data or over the policy's own samples.

    Args:
        rewards: (N,) beta * (log pi - log pi_ref) of completions, nats.
        lengths: (N,) tokens.
        prompts: (N,) the prompt of each completion.
        resampling: bootstrap over prompts.

    Raises:
        ValueError: if all completions have one length.

    Example:
        >>> found = reward_on_length([1.0, 2.0, 4.0], [1, 2, 4], ["a", "b", "c"])
        >>> round(found.slope.value, 6), round(found.r_squared.value, 6)
        (1.0, 1.0)
    """
    clusters = Clusters(prompts)
    x, y = finite(lengths, "lengths"), finite(rewards, "rewards")
    if np.ptp(x) == 0:
        raise ValueError(
            f"all completions have {x[0]:g} tokens, so nothing can be said of the reward's slope on length"
        )
    # Centred first: the sums of squares would cancel otherwise.
    x, y = x - x.mean(), y - y.mean()
    sums = clusters.sums(np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1))

    def moments(weights: Floats) -> tuple[Floats, Floats, Floats]:
        n, sx, sy, sxx, sxy, syy = (weights @ sums).T
        return sxx - sx * sx / n, sxy - sx * sy / n, syy - sy * sy / n

    def slope(weights: Floats) -> Floats:
        xx, xy, _ = moments(weights)
        return divide(xy, xx)

    def correlation(weights: Floats) -> Floats:
        xx, xy, yy = moments(weights)
        return divide(xy, np.sqrt(np.maximum(xx * yy, 0)))

    # The share is the square of the correlation. Near 0 a square barely moves, so its own spread would say too little.
    signed = bootstrap(correlation, clusters.count, resampling, within=(-1.0, 1.0))
    return LengthSlope(slope=bootstrap(slope, clusters.count, resampling), r_squared=_squared(signed))


def _squared(found: Estimate) -> Estimate:
    """The square of an estimate; an interval that holds 0 begins there."""
    value = None if found.value is None else found.value**2
    if found.interval is None:
        return found.model_copy(update={"value": value})
    ends = sorted(end**2 for end in found.interval)
    return found.model_copy(update={"value": value, "low": ends[0] if found.excludes(0.0) else 0.0, "high": ends[1]})
