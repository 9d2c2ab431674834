"""Records that stay in memory while they are few and lie on disk where they are many."""

from __future__ import annotations

import pickle
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, overload

import numpy as np
from numpy.typing import NDArray

from exptilt.data.records import Record

_CHUNK = 256
"""Records written and read at a time."""
MOST_IN_MEMORY = 20_000
"""More records than this go to a temporary file, which ends with the shelf."""


class Shelf(Sequence[Record]):
    """Records in the order they came; going through them in order reads the file once.

    Example:
        >>> from exptilt.data.records import Demonstration
        >>> shelf = Shelf(Demonstration(id=f"a:{n}", prompt="", completion="x") for n in range(600))
        >>> len(shelf), shelf[599].id, next(iter(shelf)).id
        (600, 'a:599', 'a:0')
    """

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._full: list[list[Record] | int] = []
        """Chunks, or where they begin in the file."""
        self._last: list[Record] = []
        self._file: IO[bytes] | None = None
        self._open: tuple[int, list[Record]] = (-1, [])
        for record in records:
            self.append(record)

    def append(self, record: Record) -> None:
        """Put a record at the end."""
        self._last.append(record)
        if len(self._last) == _CHUNK:
            self._full.append(self._last)
            self._last = []
            if len(self) > MOST_IN_MEMORY:
                self._spill()

    def __len__(self) -> int:
        return len(self._full) * _CHUNK + len(self._last)

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
        return self._chunk(at // _CHUNK)[at % _CHUNK]

    def __iter__(self) -> Iterator[Record]:
        for number in range(len(self._full) + 1):
            yield from self._chunk(number)

    def _chunk(self, number: int) -> list[Record]:
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
    """Some records of a sequence, in some order, a few of them changed."""

    def __init__(
        self, records: Sequence[Record], positions: NDArray[np.int64], changed: Mapping[int, Record] | None = None
    ) -> None:
        self._records = records
        self._positions = positions
        self._changed = dict(changed or {})

    def __len__(self) -> int:
        return len(self._positions)

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
        changed = self._changed.get(at)
        return self._records[int(self._positions[at])] if changed is None else changed

    def __iter__(self) -> Iterator[Record]:
        return (self[at] for at in range(len(self)))


def selected(
    records: Sequence[Record], positions: Sequence[int], changed: Mapping[int, Record] | None = None
) -> Sequence[Record]:
    """The records at `positions`; `changed` replaces some, by their place among the selected."""
    return Selection(records, np.asarray(positions, dtype=np.int64), changed)
