"""Several sequences of groups as a single sequence, without a copy."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain
from typing import overload

from exptilt.data.groups import Group


class Chained(Sequence[Group]):
    """A sequence made of several sequences of groups; rows that are mapped from a file stay in the file.

    Example:
        >>> both = Chained(["a", "b"], [], ["c"])
        >>> len(both), both[2], both[-2], both[1:], list(both)
        (3, 'c', 'b', ['b', 'c'], ['a', 'b', 'c'])
    """

    def __init__(self, *parts: Sequence[Group]) -> None:
        self._parts = parts
        self._ends = list(accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> Group: ...
    @overload
    def __getitem__(self, index: slice) -> list[Group]: ...
    def __getitem__(self, index: int | slice) -> Group | list[Group]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"there are {len(self)} groups, and none at {index}")
        part = bisect_right(self._ends, position)
        return self._parts[part][position - (self._ends[part - 1] if part else 0)]

    def __iter__(self) -> Iterator[Group]:
        return chain.from_iterable(self._parts)
