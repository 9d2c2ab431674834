"""A store of log-probabilities of many rows, held in few tensors and looked up by key."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exptilt.types import LogProbs

Key = bytes


class Scored(NamedTuple):
    """Rows that were scored together."""

    keys: list[Key]
    logps: LogProbs
    counts: list[int]
    """Completions of each row."""

    def without(self, known: Container[Key]) -> Scored | None:
        """The rows that `known` lacks; None if it has all."""
        new = [at for at, key in enumerate(self.keys) if key not in known]
        if len(new) == len(self.keys):
            return self
        parts = self.logps.split(self.counts)
        if not new:
            return None
        return Scored(
            [self.keys[at] for at in new], LogProbs.cat([parts[at] for at in new]), [self.counts[at] for at in new]
        )


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows that were added together."""

    values: NDArray[Any]
    sums: NDArray[np.float64]
    """(completions,) of the values of each."""
    lengths: NDArray[np.int64]
    completions: NDArray[np.int64]
    """(rows + 1,) index of the first completion of each row, and the total."""
    units: NDArray[np.int64]
    """(completions + 1,) index of the first counted unit of each completion, and the total."""

    @classmethod
    def of(cls, logps: LogProbs, counts: Sequence[int]) -> _Part:
        lengths = logps.lengths.numpy()
        sums = logps.sum_of(logps.tokens().double()).numpy()
        return cls(logps.tokens().numpy(), sums, lengths, np.cumsum([0, *counts]), np.cumsum([0, *lengths]))

    def row(self, at: int) -> slice:
        """The completions of one row."""
        return slice(self.completions[at], self.completions[at + 1])

    def values_of(self, row: slice) -> NDArray[Any]:
        """Values of some completions as a view, which numpy cuts ten times as fast as torch."""
        return self.values[self.units[row.start] : self.units[row.stop]]


class KeptLogProbs:
    """Log-probabilities of rows by key; a row costs about two hundred bytes beside its numbers, and no tensor of its own.

    Example:
        >>> kept = KeptLogProbs()
        >>> three = LogProbs(values=torch.tensor([-1.0, -2.0, -4.0]), lengths=torch.tensor([2, 1, 0]))
        >>> kept.add([b"pair", b"alone"], three, counts=[2, 1])
        >>> kept[b"pair"].sum().tolist(), len(kept), b"other" in kept
        ([-3.0, -4.0], 2, False)
    """

    def __init__(self) -> None:
        self._rows: dict[Key, int] = {}
        self._parts: list[_Part] = []
        self._begins: list[int] = []
        """Number of the first row of each part."""
        self._count = 0

    def add(self, keys: Sequence[Key], logps: LogProbs, counts: Sequence[int]) -> None:
        """Store rows that were scored together; a key that is stored already keeps its first values.

        Args:
            keys: R rows.
            logps: log-probabilities of all their completions, concatenated, without gradients.
            counts: (R,) completions of each row.
        """
        self._parts.append(_Part.of(logps, counts))
        self._begins.append(self._count)
        for at, key in enumerate(keys, start=self._count):
            self._rows.setdefault(key, at)
        self._count += len(keys)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._rows)

    def __contains__(self, key: object) -> bool:
        return key in self._rows

    def __getitem__(self, key: Key) -> LogProbs:
        return self.of([key])

    def _find(self, keys: Iterable[Key]) -> Iterator[tuple[_Part, slice]]:
        for key in keys:
            row = self._rows[key]
            index = bisect_right(self._begins, row) - 1
            part = self._parts[index]
            yield part, part.row(row - self._begins[index])

    def of(self, keys: Iterable[Key]) -> LogProbs:
        """Log-probabilities of all completions of some rows, concatenated."""
        values, lengths = zip(
            *((part.values_of(row), part.lengths[row]) for part, row in self._find(keys)), strict=True
        )
        return LogProbs(values=_joined(values), lengths=_joined(lengths))

    def sums_of(self, keys: Iterable[Key]) -> LogProbs:
        """Summed log-probabilities of all completions of some rows, in float64."""
        sums, lengths = zip(*((part.sums[row], part.lengths[row]) for part, row in self._find(keys)), strict=True)
        return LogProbs.from_sums(_joined(sums), _joined(lengths))


def _joined(arrays: Sequence[NDArray[Any]]) -> Tensor:
    return torch.from_numpy(np.concatenate(arrays))
