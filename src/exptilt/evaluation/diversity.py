"""How many things a policy still says: entropy per token, and distinct samples of one prompt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from exptilt.evaluation.intervals import DEFAULT, Clusters, Floats, Prompts, Resampling, finite, mean, ratio
from exptilt.run_folder.evaluation_record import Diversity


def diversity(
    ids: Sequence[NDArray[np.int32]],
    logps: ArrayLike,
    lengths: ArrayLike,
    prompts: Prompts,
    resampling: Resampling = DEFAULT,
) -> Diversity:
    """Diversity of a policy's own samples, drawn at temperature 1 without truncation.

        entropy per token = - sum log pi(y | x) / sum |y|

    over samples y of pi, which estimates the entropy of whole completions divided by their mean length. Preference
    training seeks modes: the KL says how far a policy went, these say what it left.

    Args:
        ids: (N,) tokens of each sample.
        logps: (N,) log pi(y|x) of whole samples under the policy that drew them, nats.
        lengths: (N,) tokens of each.
        prompts: (N,) the prompt of each; every prompt has the same number K of samples.
        resampling: bootstrap over prompts.

    Example:
        >>> drawn = [np.array(one, dtype=np.int32) for one in ([1, 2], [1, 2], [3], [4, 5, 6])]
        >>> found = diversity(drawn, [-2.0, -2.0, -1.0, -3.0], [2, 2, 1, 3], ["a", "a", "b", "b"])
        >>> found.entropy_per_token.value, found.distinct_per_prompt.value, found.num_samples
        (1.0, 1.5, 2)
    """
    counts = distinct_counts(ids, prompts)
    return Diversity(
        entropy_per_token=ratio(-finite(logps, "logps"), lengths, prompts, resampling),
        distinct_per_prompt=mean(counts, np.arange(len(counts)), resampling),
        num_samples=len(ids) // len(counts),
    )


def distinct_counts(ids: Sequence[NDArray[np.int32]], prompts: Prompts) -> Floats:
    """(X,) how many different token sequences each prompt has, in the order in which prompts first appear."""
    clusters = Clusters(prompts)
    seen: list[set[bytes]] = [set() for _ in range(clusters.count)]
    for owner, one in zip(clusters.index.tolist(), ids, strict=True):
        seen[owner].add(np.asarray(one, dtype=np.int64).tobytes())
    return np.array([len(one) for one in seen], dtype=np.float64)
