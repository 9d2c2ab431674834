"""Digests of many texts in 16 bytes each, to find those that are the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

Digest = bytes
_SIZE = 16


def digest(said: str) -> Digest:
    """Digest of a text; half a surrogate pair, which no file can hold, counts as it is."""
    return blake2b(said.encode("utf-8", "surrogatepass"), digest_size=_SIZE).digest()


class Digests:
    """Digests in the order they came.

    Example:
        >>> found = Digests()
        >>> for said in "abcba":
        ...     found.add(digest(said))
        >>> list(found.repeated()), list(found.groups())
        ([[0, 4], [1, 3]], [[0, 4], [1, 3], [2]])
    """

    def __init__(self) -> None:
        self._bytes = bytearray()

    def add(self, one: Digest) -> None:
        """Put a digest at the end."""
        self._bytes += one

    def __len__(self) -> int:
        return len(self._bytes) // _SIZE

    def __getitem__(self, at: int) -> Digest:
        return bytes(self._bytes[at * _SIZE : (at + 1) * _SIZE])

    def repeated(self) -> Iterator[list[int]]:
        """Positions of digests that occur more than once: each group in order, groups by their first."""
        return self.groups(2)

    def groups(self, least: int = 1) -> Iterator[list[int]]:
        """Positions of equal digests that occur at least so often: each group in order, groups by their first."""
        if not len(self):
            return
        order, starts = self._sorted()
        often = np.flatnonzero(np.diff(starts) >= least)
        for at in often[np.argsort(order[starts[often]])].tolist():
            yield order[starts[at] : starts[at + 1]].tolist()

    def _sorted(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positions in an order that puts equal digests side by side, and where each group begins and the last ends."""
        keys = np.frombuffer(self._bytes, dtype=np.uint64).reshape(-1, 2)
        order = np.lexsort((keys[:, 1], keys[:, 0]))
        in_order = keys[order]
        new = np.ones(len(order) + 1, dtype=np.bool_)
        new[1:-1] = (in_order[1:] != in_order[:-1]).any(axis=1)
        return order, np.flatnonzero(new)


class Counts:
    """How often each of some known digests was counted, in twelve bytes a digest.

    Example:
        >>> counts = Counts([digest("a"), digest("b"), digest("a")])
        >>> counts.add(digest("a"))
        >>> counts[digest("a")], counts[digest("b")]
        (1, 0)
    """

    def __init__(self, known: Iterable[Digest]) -> None:
        self._known = np.unique(np.fromiter((_number(one) for one in known), dtype=np.uint64))
        self._counts = np.zeros(len(self._known), dtype=np.uint32)

    def __getitem__(self, one: Digest) -> int:
        return int(self._counts[self._place(one)])

    def add(self, one: Digest) -> None:
        """Count a digest, one of the known."""
        self._counts[self._place(one)] += 1

    def _place(self, one: Digest) -> int:
        return int(np.searchsorted(self._known, np.uint64(_number(one))))


def _number(one: Digest) -> int:
    return int.from_bytes(one[:8], "big")
