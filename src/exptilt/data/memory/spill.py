"""Sequences of records that spill to a temporary file when they grow long."""

from __future__ import annotations

import pickle
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import IO, Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from exptilt.data.records import Record

T = TypeVar("T")
_CHUNK = 256
"""Records written and read at a time."""
MOST_IN_MEMORY = 20_000
"""Longer sequences go to a temporary file, which is deleted with the shelf."""


class Shelf(Sequence[T], Generic[T]):
    """An append-only sequence of records or rows; iterating over it reads its file once.

    Example:
        >>> from exptilt.data.records import Demonstration
        >>> shelf = Shelf(Demonstration(id=f"a:{n}", prompt="", completion="x") for n in range(600))
        >>> len(shelf), shelf[599].id, next(iter(shelf)).id
        (600, 'a:599', 'a:0')
    """

    def __init__(self, records: Iterable[T] = ()) -> None:
        self._full: list[list[T] | int] = []
        """Full chunks: a list in memory, or the offset in the file."""
        self._last: list[T] = []
        self._file: IO[bytes] | None = None
        self._open: tuple[int, list[T]] = (-1, [])
        for record in records:
            self.append(record)

    def append(self, record: T) -> None:
        """Append a record."""
        self._last.append(record)
        if len(self._last) == _CHUNK:
            self._full.append(self._last)
            self._last = []
            if len(self) > MOST_IN_MEMORY:
                self._spill()

    def __len__(self) -> int:
        return len(self._full) * _CHUNK + len(self._last)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        at = index + len(self) if index < 0 else index
        if not 0 <= at < len(self):
            raise IndexError(f"there are {len(self)} records, and none at {index}")
        return self._chunk(at // _CHUNK)[at % _CHUNK]

    def __iter__(self) -> Iterator[T]:
        for number in range(len(self._full) + 1):
            yield from self._chunk(number)

    def _chunk(self, number: int) -> list[T]:
        if number == len(self._full):
            return self._last
        chunk = self._full[number]
        if isinstance(chunk, list):
            return chunk
        if self._open[0] != number and self._file is not None:
            self._file.seek(chunk)
            self._open = (number, pickle.load(self._file))  # noqa: S301 - our own file, which has no name
        return self._open[1]

    def _spill(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="exptilt-")  # noqa: SIM115 - open as long as the shelf
            weakref.finalize(self, self._file.close)
        self._file.seek(0, 2)
        for number, chunk in enumerate(self._full):
            if isinstance(chunk, list):
                self._full[number] = self._file.tell()
                pickle.dump(chunk, self._file, protocol=pickle.HIGHEST_PROTOCOL)


class Selection(Sequence[Record]):
    """A view of a sequence of records: chosen, reordered, a few replaced, some repeated; eight bytes a record."""

    def __init__(
        self,
        records: Sequence[Record],
        positions: NDArray[np.int64],
        changed: Mapping[int, Record] | None = None,
        copies: NDArray[np.uint32] | None = None,
    ) -> None:
        self.records = records
        self.positions = positions
        """Indices into `records`."""
        self.changed = dict(changed or {})
        """Replacements by index in the selection."""
        self.copies = copies
        """The number of the copy, 0 for the record itself; None where there are no copies."""

    def __len__(self) -> int:
        return len(self.positions)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        at = index + len(self) if index < 0 else index
        if not 0 <= at < len(self):
            raise IndexError(f"there are {len(self)} records, and none at {index}")
        record = self.changed.get(at)
        if record is None:
            record = self.records[int(self.positions[at])]
        copy = 0 if self.copies is None else int(self.copies[at])
        return replace(record, id=f"{record.id} copy {copy + 1}") if copy else record

    def __iter__(self) -> Iterator[Record]:
        return (self[at] for at in range(len(self)))


def selected(
    records: Sequence[Record], positions: Sequence[int] | NDArray[np.int64], changed: Mapping[int, Record] | None = None
) -> Selection:
    """The records at `positions`; `changed` replaces some, by their index among the selected."""
    positions = np.asarray(positions, dtype=np.int64)
    if not isinstance(records, Selection) or records.copies is not None:
        return Selection(records, positions, changed)
    before = {} if not records.changed else {at: records.changed.get(int(old)) for at, old in enumerate(positions)}
    replaced = {at: record for at, record in before.items() if record is not None}
    return Selection(records.records, records.positions[positions], {**replaced, **(changed or {})})
