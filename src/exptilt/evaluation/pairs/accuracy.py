"""Does the policy prefer what people preferred: accuracy, AUC and calibration of its implicit reward."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from exptilt.evaluation.intervals import (
    DEFAULT,
    Clusters,
    Floats,
    Prompts,
    Resampling,
    finite,
    share,
)
from exptilt.evaluation.pairs.calibration import calibration
from exptilt.evaluation.pairs.pair_scores import scores
from exptilt.evaluation.result import Panel
from exptilt.run_folder.estimate_record import Estimate
from exptilt.run_folder.evaluation_record import Calibration, Slice
from exptilt.types import Pair


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceAccuracy(Panel):
    """How often the chosen completion scores higher than the rejected one; ties count one half."""

    accuracy: dict[str, Estimate]
    """By score: `with_reference/sum` (what DPO trains), `without_reference/mean`, ... ; see `scores`."""
    auc: dict[str, Estimate]
    """By score, P(m_i > -m_j) over all i, j: how well the margin tells which of two completions was preferred if the
    pairs are shown in random order."""
    longest_wins: Estimate
    """Accuracy of preferring the longer completion: what a score must beat."""
    by_longer: tuple[Slice, ...]
    """Accuracy of the first score where the chosen, the rejected or neither is longer."""
    by_length_gap: tuple[Slice, ...]
    """Accuracy of the first score by quarter of |length of chosen - length of rejected|."""
    by_familiarity: tuple[Slice, ...]
    """Accuracy of the first score by quarter of the reference's nats per token on the chosen side; needs a reference."""
    calibration: Calibration | None
    """Of beta * margin of the log-ratio sums, None without a reference or without beta; or of a reward model's margin."""
    num_pairs: int
    num_prompts: int


def preference_accuracy(
    policy: Pair,
    reference: Pair | None,
    prompts: Prompts,
    *,
    beta: float | None = None,
    resampling: Resampling = DEFAULT,
) -> PreferenceAccuracy:
    """Evaluate a policy on held-out preferences.

    Args:
        policy: log-probabilities of the chosen and rejected completions of N pairs.
        reference: the same under the reference, or None.
        prompts: (N,) the prompt of each pair.
        beta: of the training, > 0, for calibration; needs a reference.
        resampling: bootstrap over prompts.

    Example:
        >>> from exptilt.evaluation.pairs.pair_scores import side_of
        >>> policy = Pair(side_of([[-1.0, -1.0], [-2.0]]), side_of([[-3.0], [-1.0]]))
        >>> found = preference_accuracy(policy, None, prompts=["a", "b"])
        >>> found.accuracy["without_reference/sum"].value
        0.5
    """
    by_score = {name: chosen - rejected for name, (chosen, rejected) in scores(policy, reference).items()}
    lengths = [side.lengths.numpy(force=True) for side in policy]
    margin = None if beta is None or reference is None else beta * next(iter(by_score.values()))
    return _accuracy(by_score, lengths[0] - lengths[1], prompts, margin, reference, resampling)


def score_accuracy(
    chosen: ArrayLike,
    rejected: ArrayLike,
    longer: NDArray[np.int64],
    prompts: Prompts,
    resampling: Resampling = DEFAULT,
) -> PreferenceAccuracy:
    """Evaluate a reward model on held-out preferences; its score is `reward_model/score`.

    Args:
        chosen: (N,) scores of the better completions; their differences are log-odds, as Bradley-Terry has it.
        rejected: (N,) of the worse ones.
        longer: (N,) tokens of the better completion less those of the worse one.
        prompts: (N,) the prompt of each pair.
        resampling: bootstrap over prompts.

    Example:
        >>> found = score_accuracy([2.0, 0.0], [1.0, 1.0], np.array([1, -1]), ["a", "b"])
        >>> found.accuracy["reward_model/score"].value, found.longest_wins.value
        (0.5, 0.5)
    """
    margin = finite(chosen, "chosen") - finite(rejected, "rejected")
    return _accuracy({"reward_model/score": margin}, longer, prompts, margin, None, resampling)


def _accuracy(
    by_score: dict[str, Floats],
    longer: NDArray[np.int64],
    prompts: Prompts,
    margin: Floats | None,
    reference: Pair | None,
    resampling: Resampling,
) -> PreferenceAccuracy:
    """Measure margins of N pairs by name; `margin` is the one whose calibration is asked."""
    clusters, first = Clusters(prompts), next(iter(by_score.values()))
    if len(clusters) != len(longer):
        raise ValueError(f"{len(longer)} pairs but {len(clusters)} prompt labels: give one label for each pair")
    return PreferenceAccuracy(
        accuracy={name: share_above_zero(margin, clusters, resampling) for name, margin in by_score.items()},
        auc={name: margin_auc(margin, clusters, resampling) for name, margin in by_score.items()},
        longest_wins=share_above_zero(longer, clusters, resampling),
        by_longer=_slices(first, _sides(longer), clusters, resampling),
        by_length_gap=_slices(first, _quarters(np.abs(longer)), clusters, resampling),
        by_familiarity=() if reference is None else _slices(first, _familiar(reference), clusters, resampling),
        calibration=None if margin is None else calibration(margin, clusters, resampling=resampling),
        num_pairs=len(longer),
        num_prompts=clusters.count,
    )


def share_above_zero(margin: ArrayLike, clusters: Clusters, resampling: Resampling = DEFAULT) -> Estimate:
    """Share of margins above 0, exact zeros counting one half.

    The interval is Wilson's with an effective number of pairs; see `share`.
    """
    wins = (np.sign(finite(margin, "margin")) + 1) / 2
    total, count = clusters.sums(wins), clusters.sums(np.ones(len(wins)))
    return share(lambda weights: (weights @ total) / (weights @ count), clusters.count, len(wins), resampling)


def margin_auc(margin: ArrayLike, clusters: Clusters, resampling: Resampling = DEFAULT) -> Estimate:
    """P(m_i > -m_j) + P(m_i = -m_j) / 2 over all i, j; 0.5 for a margin that knows nothing."""
    rows = finite(margin, "margin")
    order = np.argsort(-rows, kind="stable")
    mirrored = -rows[order]
    below = np.searchsorted(mirrored, rows, side="left")
    upto = np.searchsorted(mirrored, rows, side="right")

    def statistic(weights: Floats) -> Floats:
        drawn = weights[:, clusters.index]
        reached = np.concatenate([np.zeros((len(drawn), 1)), np.cumsum(drawn[:, order], axis=1)], axis=1)
        beaten = (reached[:, below] + reached[:, upto]) / 2
        return np.asarray((drawn * beaten).sum(axis=1) / drawn.sum(axis=1) ** 2)

    return share(statistic, clusters.count, len(rows), resampling)


def _sides(longer: NDArray[np.int64]) -> dict[str, NDArray[np.bool_]]:
    return {"chosen longer": longer > 0, "rejected longer": longer < 0, "equal length": longer == 0}


def _quarters(gap: NDArray[np.int64]) -> dict[str, NDArray[np.bool_]]:
    """Slices of about a quarter of the pairs each; fewer where many gaps are equal."""
    ends = np.unique(np.quantile(gap, [0.25, 0.5, 0.75, 1.0], method="inverted_cdf"))
    starts = [gap.min(), *(ends[:-1] + 1)]
    return {
        f"{int(start)}-{int(end)} tokens": (gap >= start) & (gap <= end)
        for start, end in zip(starts, ends, strict=True)
    }


def _familiar(reference: Pair) -> dict[str, NDArray[np.bool_]]:
    """Quarters of the pairs by the reference's log-probability per token of the chosen side, the least familiar first."""
    known = reference.chosen.detach().mean().double().numpy(force=True)
    ends = np.unique(np.quantile(known, [0.25, 0.5, 0.75, 1.0], method="inverted_cdf"))
    starts = [-np.inf, *ends[:-1]]
    least = [known.min(), *ends[:-1]]
    return {
        f"reference gives {low:.2f} to {end:.2f} nats per token": (known > start) & (known <= end)
        for start, low, end in zip(starts, least, ends, strict=True)
    }


def _slices(
    margin: Floats, parts: dict[str, NDArray[np.bool_]], clusters: Clusters, resampling: Resampling
) -> tuple[Slice, ...]:
    return tuple(
        Slice(
            name=name,
            accuracy=share_above_zero(margin[rows], Clusters(clusters.index[rows]), resampling),
            num_pairs=int(rows.sum()),
        )
        for name, rows in parts.items()
        if rows.any()
    )
