"""Steps that hold what an objective needs in each of them: rows of two prompts, or rows of both labels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from exptilt.data.groups import Group
from exptilt.labels import Desirable

Order = NDArray[np.int64]

_VALUES: dict[str, Callable[[Group], Hashable]] = {
    "prompts": lambda group: hashlib.blake2b(group.prompt.tobytes(), digest_size=8).digest(),
    "labels": lambda group: group.label.desirable if isinstance(group.label, Desirable) else None,
}


@dataclass(frozen=True, eq=False)
class TwoOf:
    """Values of which every step needs two different ones: rows by their index in the data.

    Example:
        >>> groups = [Group(id=str(n), prompt=np.array([n // 3]), completions=()) for n in range(6)]
        >>> two = TwoOf.of("prompts", groups)
        >>> two.spread(np.arange(6), [0, 2, 4, 6]).tolist()  # rows 0 to 2 share a prompt, 3 to 5 another
        [0, 4, 2, 3, 1, 5]
        >>> two.num_rare, two.least_size
        (3, 2)
    """

    name: Literal["prompts", "labels"]
    values: NDArray[np.int64]
    """(G,) a number for each value; -1 for rows of weight 0, which count as absent."""

    @classmethod
    def of(cls, name: Literal["prompts", "labels"], groups: Sequence[Group]) -> TwoOf:
        """Read the values of all rows once."""
        value_of, numbers = _VALUES[name], dict[Any, int]()
        values = (numbers.setdefault(value_of(group), len(numbers)) if group.weight > 0 else -1 for group in groups)
        return cls(name, np.fromiter(values, np.int64, len(groups)))

    @property
    def num_rare(self) -> int:
        """Rows that count and do not have the most frequent value: each step needs one of them."""
        counts = np.bincount(self.values[self.values >= 0])
        return int(counts.sum() - counts.max()) if len(counts) else 0

    @property
    def least_size(self) -> int | None:
        """The least `batch.size` at which every step can hold two values; None where there is only one."""
        return max(2, -(-len(self.values) // self.num_rare)) if self.num_rare else None

    def holds(self, rows: Order) -> bool:
        """Tell whether there are two values among these rows."""
        values = self.values[rows]
        return len(np.unique(values[values >= 0])) >= 2

    def spread(self, order: Order, edges: Sequence[int]) -> Order:
        """The order of an epoch with as few rows exchanged between steps as each needs to hold two values.

        A step that lacks them takes a row of the nearest step that can give one, the following ones first. Where there
        are fewer rows of a second value than steps the order stays as it is.

        Args:
            order: rows in their order.
            edges: where steps begin and end in it.
        """
        steps = [order[begin:end].copy() for begin, end in pairwise(edges)]
        if self.num_rare < len(steps):
            return order
        for at, step in enumerate(steps):
            while not self.holds(step) and self._help(step, [*steps[at + 1 :], *steps[:at][::-1]]):
                pass
        return np.concatenate(steps)

    def _help(self, step: Order, others: Sequence[Order]) -> bool:
        """Exchange one row, if that brings a value into the step and takes none that the other needs."""
        spare = self._spare(step)
        for other in others:
            values = self.values[other]
            for index in np.flatnonzero((values >= 0) & ~np.isin(values, self.values[step])):
                for own in spare:
                    left = np.concatenate([np.delete(other, index), step[[own]]])
                    if self.holds(left) or not self.holds(other):
                        step[own], other[index] = other[index], step[own]
                        return True
        return False

    def _spare(self, step: Order) -> list[int]:
        """Places in a step of rows it can give away: one that does not count, and one of the value it has."""
        values = self.values[step]
        absent, present = np.flatnonzero(values < 0), np.flatnonzero(values >= 0)
        return [int(some[-1]) for some, least in ((absent, 1), (present, 2)) if len(some) >= least]
