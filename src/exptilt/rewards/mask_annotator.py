"""A simulated annotator of masks: prefers the one with the higher overlap, not always."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Overlap = Literal["dice", "iou"]


@dataclass(frozen=True)
class MaskAnnotator:
    """Prefers one mask to another, more surely the more their overlaps with the true mask differ.

        P(a > b) = (1 - flip) sigmoid((u(a) - u(b)) / temperature) + flip (1 - sigmoid(...))

    where u is the mean over classes, the background aside, of Dice or of IoU with the true mask.

    Example:
        >>> true = np.array([[0, 1], [1, 1]])
        >>> annotator = MaskAnnotator(temperature=0.1)
        >>> round(float(annotator.utility(np.array([[0, 1], [1, 0]]), true)), 3)
        0.8
        >>> round(annotator.preference(true, np.array([[0, 1], [1, 0]]), true), 3)
        0.881
    """

    overlap: Overlap = "dice"
    temperature: float = 0.02
    """Difference of utilities that counts; 0 prefers the better one always."""
    flip: float = 0.0
    """Share of answers that are turned round, in [0, 0.5]."""
    weights: tuple[float, ...] = ()
    """Of classes but the background; all alike by default."""

    def utility(self, mask: Any, true: Any) -> float:
        """Overlap with the true mask, in [0, 1]; pixels of -1 in the truth do not count, classes in neither mask are left out."""
        known = true >= 0
        mask, true = mask[known], true[known]
        classes = range(1, int(max(mask.max(initial=0), true.max(initial=0))) + 1)
        values, weights = [], []
        for one in classes:
            a, b = mask == one, true == one
            both, size = float((a & b).sum()), float(a.sum() + b.sum())
            if size:
                values.append(2 * both / size if self.overlap == "dice" else both / (size - both))
                weights.append(self.weights[one - 1] if self.weights else 1.0)
        return float(np.average(values, weights=weights)) if values else 1.0

    def preference(self, first: Any, second: Any, true: Any) -> float:
        """Probability that the first is preferred."""
        gap = self.utility(first, true) - self.utility(second, true)
        if self.temperature == 0:
            sure = 0.5 if gap == 0 else float(gap > 0)
        else:
            sure = float(1 / (1 + np.exp(-np.clip(gap / self.temperature, -60, 60))))
        return (1 - self.flip) * sure + self.flip * (1 - sure)

    def prefers_first(self, first: Any, second: Any, true: Any, random: np.random.Generator) -> bool:
        """One answer."""
        return bool(random.random() < self.preference(first, second, true))
