"""A win rate from few human and many judge labels: PPI++ (Angelopoulos, Duchi and Zrnic 2023, arXiv 2311.01453).

    rate = mean(Y) + lambda * (mean of the judge where no person voted - mean of the judge where people voted)

It is unbiased whatever the judge's errors are; lambda = cov(Y, judge) / ((1 + n / N) var(judge)), kept in [0, 1], makes the
variance smallest, and is 0 for a judge that knows nothing. Deviation: a t quantile with n - 1 degrees of freedom instead of
a normal one, since n is small.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t

from exptilt.evaluation.intervals import finite
from exptilt.evaluation.result import Panel
from exptilt.run_folder.estimate_record import Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionPowered(Panel):
    """A win rate from people and a judge together."""

    win_rate: Estimate
    people_alone: Estimate
    judge_alone: float
    """The judge's mean over all items: biased as the judge is."""
    judge_bias: Estimate
    """Judge minus people on the items both voted on."""
    trust: float
    """lambda, in [0, 1]."""
    worth: float
    """How many human labels give as narrow an interval; at least the number there are."""
    human: int
    judged: int

    @property
    def sentence(self) -> str:
        """What the judge's labels are worth, in words."""
        more = max(0, round(self.worth) - self.human)
        return (
            f"these {self.judged} judge labels are worth {more} human labels: with the {self.human} there are, the win rate is "
            f"as sure as {round(self.worth)} human labels would make it"
        )


def prediction_powered(
    people: ArrayLike, judge_there: ArrayLike, judge_elsewhere: ArrayLike, level: float = 0.95
) -> PredictionPowered:
    """Combine labels; one value for each prompt (the mean, where a prompt has several).

    Args:
        people: (n,) mean votes of people, in [0, 1].
        judge_there: (n,) the judge on the same prompts.
        judge_elsewhere: (N,) the judge on prompts that no person saw, drawn from the same distribution.
        level: of the interval.

    Raises:
        ValueError: fewer than 2 prompts on either side.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> judge = rng.random(1000)
        >>> found = prediction_powered(judge[:100], judge[:100], judge[100:])  # a judge that is always right
        >>> round(found.trust, 2), round(found.worth)  # about the 1000 there are
        (1.0, 1030)
    """
    human, there = finite(people, "people"), finite(judge_there, "judge_there")
    elsewhere = finite(judge_elsewhere, "judge_elsewhere")
    n, many = len(human), len(elsewhere)
    if n < 2 or many < 2 or len(there) != n:
        raise ValueError(f"need at least 2 prompts with people and 2 without, got {n} (judge: {len(there)}) and {many}")
    everywhere = np.concatenate([there, elsewhere])
    spread = float(everywhere.var(ddof=1))
    raw = float(np.cov(human, there)[0, 1]) / ((1 + n / many) * spread) if spread > 0 else 0.0
    trust = min(max(raw, 0.0), 1.0)
    value = float(human.mean() + trust * (elsewhere.mean() - there.mean()))
    variance = float((human - trust * there).var(ddof=1) / n + trust**2 * spread / many)
    alone = float(human.var(ddof=1) / n)
    quantile = float(t.ppf((1 + level) / 2, n - 1))

    def estimate(middle: float, squared: float) -> Estimate:
        reach = quantile * squared**0.5
        return Estimate(value=middle, low=middle - reach, high=middle + reach, level=level, n=n)

    return PredictionPowered(
        win_rate=estimate(value, variance),
        people_alone=estimate(float(human.mean()), alone),
        judge_alone=float(everywhere.mean()),
        judge_bias=estimate(float((there - human).mean()), float((there - human).var(ddof=1) / n)),
        trust=trust,
        worth=n * alone / variance if variance > 0 else float(n + many),
        human=n,
        judged=many,
    )
