"""Digests of many texts, 16 bytes each, to find equal texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

Digest = bytes
_SIZE = 16


def digest(text: str) -> Digest:
    """Digest of a text, also of one with half a surrogate pair, which UTF-8 cannot encode."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_SIZE).digest()


def digest_bytes(parts: Iterable[bytes]) -> Digest:
    """Digest of several pieces; where one ends and the next begins counts."""
    hasher = blake2b(digest_size=_SIZE)
    for part in parts:
        hasher.update(len(part).to_bytes(8, "big") + part)
    return hasher.digest()


class Digests:
    """A growing list of digests that groups equal ones.

    Example:
        >>> digests = Digests()
        >>> for text in "abcba":
        ...     digests.add(digest(text))
        >>> list(digests.repeated()), list(digests.groups())
        ([[0, 4], [1, 3]], [[0, 4], [1, 3], [2]])
    """

    def __init__(self) -> None:
        self._bytes = bytearray()

    def add(self, digest_: Digest) -> None:
        """Append a digest."""
        self._bytes += digest_

    def __iadd__(self, later: Digests) -> Digests:
        self._bytes += later._bytes
        return self

    def __len__(self) -> int:
        return len(self._bytes) // _SIZE

    def __getitem__(self, at: int) -> Digest:
        return bytes(self._bytes[at * _SIZE : (at + 1) * _SIZE])

    def repeated(self) -> Iterator[list[int]]:
        """Positions of digests that occur more than once: one ascending list per digest, in order of first positions."""
        return self.groups(2)

    def groups(self, least: int = 1) -> Iterator[list[int]]:
        """Positions of digests that occur at least `least` times: one ascending list per digest, in order of first positions."""
        if not len(self):
            return
        order, starts = self._sorted()
        often = np.flatnonzero(np.diff(starts) >= least)
        for at in often[np.argsort(order[starts[often]])].tolist():
            yield order[starts[at] : starts[at + 1]].tolist()

    def _sorted(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positions sorted by digest, and the bounds of each run of equal digests."""
        keys = np.frombuffer(self._bytes, dtype=np.uint64).reshape(-1, 2)
        order = np.lexsort((keys[:, 1], keys[:, 0]))
        in_order = keys[order]
        new = np.ones(len(order) + 1, dtype=np.bool_)
        new[1:-1] = (in_order[1:] != in_order[:-1]).any(axis=1)
        return order, np.flatnonzero(new)


class Counts:
    """A counter for a fixed set of digests, twelve bytes each.

    Example:
        >>> counts = Counts([digest("a"), digest("b"), digest("a")])
        >>> counts.add(digest("a"))
        >>> counts[digest("a")], counts[digest("b")]
        (1, 0)
    """

    def __init__(self, known: Iterable[Digest]) -> None:
        self._known = np.unique(np.fromiter((_number(digest_) for digest_ in known), dtype=np.uint64))
        self._counts = np.zeros(len(self._known), dtype=np.uint32)

    def __getitem__(self, digest_: Digest) -> int:
        return int(self._counts[self._place(digest_)])

    def add(self, digest_: Digest) -> None:
        """Count one occurrence; the digest must be in the set."""
        self._counts[self._place(digest_)] += 1

    def _place(self, digest_: Digest) -> int:
        return int(np.searchsorted(self._known, np.uint64(_number(digest_))))


def _number(digest_: Digest) -> int:
    return int.from_bytes(digest_[:8], "big")
