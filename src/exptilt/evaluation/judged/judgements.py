"""Verdicts on two policies as columns: the input of every win rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from exptilt.evaluation.intervals import Clusters, Floats, Prompts


@dataclass(frozen=True)
class Judgements:
    """N verdicts on policy A against policy B; one prompt has one row for each order and replicate.

    Example:
        >>> asked = Judgements(prompts=["p", "p"], wins=[1.0, np.nan], shown_first=[True, False])
        >>> asked.share_unscored, asked.swapped().wins.tolist()
        (0.5, [0.0, nan])
    """

    prompts: Prompts
    """(N,) the prompt of each verdict."""
    wins: ArrayLike
    """(N,) for A: 1 won, 0 lost, 1/2 a tie, or the judge's probability; NaN where the judge gave no verdict."""
    shown_first: ArrayLike
    """(N,) whether A was shown first."""
    gap: ArrayLike | None = None
    """(N,) length of A's answer minus that of B's, in any one unit; None where it is not known."""

    def __post_init__(self) -> None:
        wins = np.asarray(self.wins, dtype=np.float64)
        first = np.asarray(self.shown_first, dtype=bool)
        gap = None if self.gap is None else np.asarray(self.gap, dtype=np.float64)
        for name, value in (("wins", wins), ("shown_first", first), ("gap", gap)):
            object.__setattr__(self, name, value)
        lengths = {len(self.prompts), len(wins), len(first)} | (set() if gap is None else {len(gap)})
        if len(lengths) != 1 or not len(wins):
            raise ValueError(f"the columns of verdicts must have one length of at least 1, got {sorted(lengths)}")
        if ((wins < 0) | (wins > 1)).any():
            raise ValueError("wins must be in [0, 1], or NaN where there is no verdict")
        if gap is not None and not np.isfinite(gap).all():
            raise ValueError("gap must be finite")

    @property
    def clusters(self) -> Clusters:
        """Which prompt each verdict belongs to."""
        return Clusters(self.prompts)

    @property
    def scored(self) -> NDArray[np.bool_]:
        """(N,) where there is a verdict."""
        return np.asarray(~np.isnan(np.asarray(self.wins)))

    @property
    def is_soft(self) -> bool:
        """Whether some verdicts are probabilities, and not won, lost or tied."""
        return bool((self.scored & ~np.isin(np.asarray(self.wins), (0.0, 0.5, 1.0))).any())

    @property
    def share_unscored(self) -> float:
        """Share of rows without a verdict."""
        return float(1 - self.scored.mean())

    def swapped(self) -> Judgements:
        """The same verdicts, seen from B."""
        wins, first = np.asarray(self.wins), np.asarray(self.shown_first)
        return Judgements(self.prompts, 1 - wins, ~first, None if self.gap is None else -np.asarray(self.gap))

    def where(self, rows: NDArray[np.bool_]) -> Judgements:
        """Some of the rows."""
        labels: NDArray[Any] = np.asarray(self.prompts)
        gap = None if self.gap is None else np.asarray(self.gap)[rows]
        return Judgements(labels[rows], np.asarray(self.wins)[rows], np.asarray(self.shown_first)[rows], gap)

    @staticmethod
    def joined(parts: Sequence[Judgements]) -> Judgements:
        """Verdicts of several columns as one; a prompt that several have is one prompt."""
        gaps = [np.asarray(part.gap) for part in parts if part.gap is not None]
        return Judgements(
            np.concatenate([np.asarray(part.prompts) for part in parts]),
            np.concatenate([np.asarray(part.wins) for part in parts]),
            np.concatenate([np.asarray(part.shown_first) for part in parts]),
            np.concatenate(gaps) if len(gaps) == len(parts) else None,
        )

    def by_slot(self, values: Floats) -> tuple[Floats, Floats]:
        """(C,) sums of row values over each prompt, of rows that show A first, and of the others."""
        clusters, first = self.clusters, np.asarray(self.shown_first)
        return clusters.sums(np.where(first, values, 0.0)), clusters.sums(np.where(first, 0.0, values))
