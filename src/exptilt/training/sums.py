"""Metrics as sums over sums, never means of means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor


class Sums:
    """Weighted sums of named quantities; the mean is taken once, at the end.

    Sums that were added as a tensor stay on their device until somebody reads a number, so a step over many
    micro-batches waits for the device once.

    Example:
        >>> sums = Sums()
        >>> sums.add("loss", 6.0, 3.0)
        >>> sums.add("loss", 2.0, 1.0)
        >>> sums.means()
        {'loss': 2.0}
    """

    def __init__(self, totals: Mapping[str, Iterable[float]] | None = None) -> None:
        self._totals = {name: [*entry] for name, entry in (totals or {}).items()}
        self._blocks: dict[tuple[str, ...], Tensor] = {}

    @property
    def totals(self) -> dict[str, list[float]]:
        """[sum, weight] of each quantity, by name."""
        if self._blocks:
            blocks, numbers = self._blocks, self._totals
            self._blocks, self._totals = {}, {}
            for names, block in blocks.items():
                for name, (total, weight) in zip(names, block.tolist(), strict=True):
                    self.add(name, total, weight)
            self.merge(Sums(numbers))
        return self._totals

    def add(self, name: str, total: float, weight: float) -> None:
        """Add one weighted sum."""
        entry = self._totals.setdefault(name, [0.0, 0.0])
        entry[0] += total
        entry[1] += weight

    def add_block(self, names: tuple[str, ...], block: Tensor) -> None:
        """Add (M, 2) sums and weights of many quantities at once, which stay on their device."""
        self._blocks[names] = self._blocks[names] + block if names in self._blocks else block

    def count(self, name: str, total: float) -> None:
        """Add to a count, such as tokens, which has a total and no mean."""
        self.add(name, total, 0.0)

    def merge(self, other: Sums) -> None:
        """Add all sums of another object."""
        for name, (total, weight) in other._totals.items():
            self.add(name, total, weight)
        for names, block in other._blocks.items():
            self.add_block(names, block)

    def means(self, prefix: str = "") -> dict[str, float]:
        """The mean of each quantity: its sum divided by its weight; a quantity of weight zero is left out."""
        return {prefix + name: total / weight for name, (total, weight) in self.totals.items() if weight}

    def __getstate__(self) -> dict[str, Any]:
        """Return plain numbers, which alone travel to other processes."""
        return {"_totals": self.totals, "_blocks": {}}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sums) and self.totals == other.totals

    __hash__ = None  # type: ignore[assignment]
