"""Many policies on the same prompts: paired differences, intervals that all hold at once, the best of a sweep.

The best of several noisy estimates is too good: the expected maximum of five equal ones is 2 to 3 points above each at 256
prompts. So a temperature is chosen on one half of the prompts and measured on the other, or the choice is bootstrapped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from exptilt.evaluation.intervals import (
    DEFAULT,
    Floats,
    Prompts,
    Resampling,
    finite,
    mean,
    paired_difference,
    resampled_weights,
)
from exptilt.evaluation.result import Panel
from exptilt.run_folder.estimate_record import Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen(Panel):
    """The best member of a sweep, measured without the luck of having been chosen."""

    index: int
    rate: Estimate
    """On prompts that did not choose it."""
    on_choosing_half: float
    """What it had on the prompts that chose it: too good on average."""


def simultaneous(rates: ArrayLike, resampling: Resampling = DEFAULT) -> list[Estimate]:
    """Intervals of P mean rates that all hold together with the given probability, by the bootstrap of the largest
    standardised deviation; wider than one interval at a time, narrower than Bonferroni's.

    Args:
        rates: (C, P) one value for each prompt and policy.
        resampling: bootstrap over prompts.

    Example:
        >>> both = simultaneous(np.array([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0], [0.0, 1.0]]))
        >>> [estimate.value for estimate in both]
        [0.5, 0.75]
    """  # noqa: D205
    values = finite(rates, "rates")
    prompts = len(values)
    centre = values.mean(axis=0)
    if prompts < 2:
        return [Estimate(value=float(v), level=resampling.level, n=prompts) for v in centre]
    error = values.std(axis=0, ddof=1) / np.sqrt(prompts)
    safe = np.where(error > 0, error, 1.0)
    largest = np.concatenate(
        [
            np.abs((weights @ values / prompts - centre) / _errors(weights, values, safe)).max(axis=1)
            for weights in resampled_weights(prompts, resampling)
        ]
    )
    reach = float(np.quantile(largest, resampling.level)) * error
    return [
        Estimate(value=float(v), low=float(v - r), high=float(v + r), level=resampling.level, n=prompts)
        for v, r in zip(centre, reach, strict=True)
    ]


def _errors(weights: Floats, values: Floats, safe: Floats) -> Floats:
    """(S, P) the standard error inside each resample, so that the deviation is standardised as a t."""
    prompts = len(values)
    middle = weights @ values / prompts
    spread = np.maximum(weights @ values**2 / prompts - middle**2, 0.0)
    return np.asarray(np.maximum(np.sqrt(spread / (prompts - 1)), safe * 1e-3))


def differences(
    rates: ArrayLike, prompts: Prompts, resampling: Resampling = DEFAULT
) -> dict[tuple[int, int], Estimate]:
    """Paired differences of all pairs of policies on the same prompts.

    Args:
        rates: (N, P) rows of verdicts that all policies have.
        prompts: (N,) the prompt of each row.
        resampling: bootstrap over prompts.
    """
    values = finite(rates, "rates")
    return {
        (i, j): paired_difference(values[:, i], values[:, j], prompts, resampling)
        for i in range(values.shape[1])
        for j in range(i + 1, values.shape[1])
    }


def best_on_dev_half(rates: ArrayLike, prompts: Sequence[object], resampling: Resampling = DEFAULT) -> Chosen:
    """Choose the best of P members on half of the prompts and measure it on the other half.

    Args:
        rates: (C, P) one row for each prompt.
        prompts: (C,) distinct.
        resampling: its seed draws the halves.
    """
    values = finite(rates, "rates")
    if len(values) < 4:
        raise ValueError(f"choosing on one half of the prompts needs at least 4, got {len(values)}")
    order = np.random.default_rng(resampling.seed).permutation(len(values))
    dev, test = order[: len(order) // 2], order[len(order) // 2 :]
    best = int(np.argmax(values[dev].mean(axis=0)))
    names = [str(prompts[k]) for k in test]
    return Chosen(
        index=best, rate=mean(values[test, best], names, resampling), on_choosing_half=float(values[dev, best].mean())
    )


def optimism_of_the_maximum(rates: ArrayLike, resampling: Resampling = DEFAULT) -> float:
    """How much too good the best of P members looks, by the bootstrap: mean of (the maximum in a resample minus what that
    member has on all prompts).

    Args:
        rates: (C, P) one row for each prompt.
        resampling: bootstrap over prompts.
    """  # noqa: D205
    values = finite(rates, "rates")
    everywhere = values.mean(axis=0)
    gains = []
    for weights in resampled_weights(len(values), resampling):
        drawn = weights @ values / len(values)
        gains.append(drawn.max(axis=1) - everywhere[drawn.argmax(axis=1)])
    return float(np.concatenate(gains).mean())
