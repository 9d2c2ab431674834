"""Metrics as sums over sums, never means of means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class Sums:
    """Weighted sums of named quantities; the mean is taken once, at the end.

    Example:
        >>> sums = Sums()
        >>> sums.add("loss", 6.0, 3.0)
        >>> sums.add("loss", 2.0, 1.0)
        >>> sums.means()
        {'loss': 2.0}
    """

    totals: dict[str, list[float]] = field(default_factory=dict)
    """name -> [sum, weight]."""

    def add(self, name: str, total: float, weight: float) -> None:
        """Add one weighted sum."""
        entry = self.totals.setdefault(name, [0.0, 0.0])
        entry[0] += total
        entry[1] += weight

    def merge(self, other: Sums) -> None:
        """Add everything another holds."""
        for name, (total, weight) in other.totals.items():
            self.add(name, total, weight)

    def means(self, prefix: str = "") -> dict[str, float]:
        """Each sum divided by its weight; a quantity of weight zero is left out."""
        return {prefix + name: total / weight for name, (total, weight) in self.totals.items() if weight}

    @classmethod
    def of(cls, values: Mapping[str, tuple[float, float]]) -> Sums:
        """From name -> (sum, weight)."""
        return cls({name: [total, weight] for name, (total, weight) in values.items()})
