"""Many groups as Arrow record batches: five bytes a token, in memory or mapped from a file. Never imports torch."""

from __future__ import annotations

import os
import tempfile
import weakref
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from exptilt.data.groups import Completion, Group
from exptilt.labels import Desirable, Label, Preferred, Ranked

_BLOCK = 4096
"""Groups held as objects before they become one record batch."""
MOST_IN_MEMORY = 64 << 20
"""More bytes than this go to a temporary file, which is mapped."""


@cache
def _schema() -> Any:
    import pyarrow

    numbers, real = pyarrow.list_(pyarrow.int32()), pyarrow.float64()
    return pyarrow.schema(
        {
            "id": pyarrow.string(),
            "tokens": numbers,  # ids of the prompt, then of each completion
            "counted": pyarrow.list_(pyarrow.uint8()),  # of each token
            "lengths": numbers,  # of the prompt and of each completion
            "num_counted": numbers,  # of each completion
            # The label: p_chosen (and margin), ranks or desirable, whichever it has; none of them where there is none.
            "p_chosen": real,
            "margin": real,
            "ranks": numbers,
            "desirable": pyarrow.bool_(),
            # Of each completion, and null where no completion of the row has it.
            "scores": pyarrow.list_(real),
            "versions": numbers,
            "behaviour": pyarrow.list_(pyarrow.list_(pyarrow.float32())),  # of each token of each completion
            "weight": real,
            "section": pyarrow.string(),
        }
    )


_LISTS = ("tokens", "counted", "lengths", "num_counted")
"""Columns that are read as arrays."""
_OF_COMPLETIONS = {"scores": "score", "versions": "version", "behaviour": "behaviour"}
"""Columns with one value for each completion, and the field of a completion it is."""
_FIELDS = ("section", "weight", "p_chosen", "margin", "ranks", "desirable", *_OF_COMPLETIONS)
"""Columns that are read as they are, and mostly hold one value over and over."""


@dataclass(frozen=True, slots=True)
class _Lists:
    """A column of lists as two flat arrays, which are not copied."""

    values: NDArray[Any]
    edges: NDArray[Any]

    @classmethod
    def of(cls, column: Any) -> _Lists:
        return cls(column.values.to_numpy(), column.offsets.to_numpy())

    def at(self, row: int) -> NDArray[Any]:
        return self.values[self.edges[row] : self.edges[row + 1]]


class GroupTable(Sequence[Group]):
    """A sequence of groups that keeps no object per group; a group is made when it is asked for.

    The file is Arrow's IPC format, so pyarrow, datasets and polars open it as it is.

    Example:
        >>> part = Completion(ids=np.arange(3, dtype=np.int32), counted=np.ones(3, dtype=bool))
        >>> table = GroupTable.of(Group(id=f"a:{n}", prompt=np.arange(n), completions=(part,)) for n in range(5))
        >>> len(table), table[3].id, len(table[-1].prompt), [group.id for group in table[:2]]
        (5, 'a:3', 4, ['a:0', 'a:1'])
    """

    def __init__(self, batches: Sequence[Any]) -> None:
        self._batches = list(batches)
        self._ends = list(accumulate(batch.num_rows for batch in batches))
        self._open: dict[int, dict[str, Any]] = {}

    @classmethod
    def of(cls, groups: Iterable[Group]) -> GroupTable:
        """Make a table of groups, which are read one by one."""
        builder = TableBuilder()
        for group in groups:
            builder.add(group)
        return builder.table()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> Group: ...
    @overload
    def __getitem__(self, index: slice) -> list[Group]: ...
    def __getitem__(self, index: int | slice) -> Group | list[Group]:
        if isinstance(index, slice):
            return [self._group(at) for at in range(*index.indices(len(self)))]
        at = index + len(self) if index < 0 else index
        if not 0 <= at < len(self):
            raise IndexError(f"there are {len(self)} groups, and none at {index}")
        return self._group(at)

    def __iter__(self) -> Iterator[Group]:
        return (self._group(at) for at in range(len(self)))

    def _group(self, at: int) -> Group:
        number = bisect_right(self._ends, at)
        row = at - (self._ends[number - 1] if number else 0)
        columns = self._columns(number)
        # Copies, so that a group can be written to and outlives the file.
        ids, counted = columns["tokens"].at(row).copy(), columns["counted"].at(row).astype(np.bool_)
        edges = list(accumulate(columns["lengths"].at(row).tolist()))
        known = columns["same"] | {name: _python(name, column[row]) for name, column in columns["own"].items()}
        completions = [Completion(ids[begin:end], counted[begin:end]) for begin, end in pairwise(edges)]
        for name, field in _OF_COMPLETIONS.items():
            if known[name] is not None:
                values = zip(completions, known[name], strict=True)
                completions = [replace(part, **{field: value}) for part, value in values]
        return Group(
            id=known["id"],
            prompt=ids[: edges[0]],
            completions=tuple(completions),
            label=_label(known),
            weight=known["weight"],
            section=known["section"],
        )

    def _columns(self, number: int) -> dict[str, Any]:
        """The arrays of a batch as views of the file; "same" holds values that are equal in all rows, "own" the other columns."""
        if number not in self._open:
            batch = self._batches[number]
            columns: dict[str, Any] = {name: _Lists.of(batch.column(name)) for name in _LISTS}
            fields = {name: batch.column(name) for name in _FIELDS}
            same = {name for name, column in fields.items() if _is_constant(name, column)}
            columns["same"] = {name: _python(name, fields[name][0]) for name in same}
            columns["own"] = {name: fields[name] for name in fields.keys() - same} | {"id": batch.column("id")}
            self._open[number] = columns
        return self._open[number]

    @property
    def prompt_lengths(self) -> NDArray[np.int32]:
        """(G,) tokens of each prompt."""
        return self._joined("lengths", 0)

    def completion_lengths(self, position: int | None = None) -> NDArray[np.int32]:
        """Counted tokens of every completion, or (G,) those of the completion at `position` in each group."""
        return self._joined("num_counted", position)

    def _joined(self, name: str, position: int | None) -> NDArray[np.int32]:
        columns = (self._columns(number)[name] for number in range(len(self._batches)))
        parts = [
            column.values if position is None else column.values[column.edges[:-1] + position] for column in columns
        ]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int32)

    def save(self, path: Path) -> None:
        """Write an Arrow file."""
        import pyarrow

        with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_file(sink, _schema()) as writer:
            for batch in self._batches:
                writer.write_batch(batch)

    @classmethod
    def load(cls, path: Path) -> GroupTable:
        """Map a file that `save` wrote; unused parts are not read."""
        import pyarrow

        reader = pyarrow.ipc.open_file(pyarrow.memory_map(str(path)))
        return cls([reader.get_batch(number) for number in range(reader.num_record_batches)])


class TableBuilder:
    """Collects groups into a table; many groups go to a temporary file, which is removed with the table."""

    def __init__(self) -> None:
        self._waiting: list[Group] = []
        self._small: list[Any] = []
        """Batches to be joined."""
        self._batches: list[Any] = []
        self._path: Path | None = None
        self._writer: Any = None

    def add(self, group: Group) -> None:
        """Append a group."""
        self._waiting.append(group)
        if len(self._waiting) == _BLOCK:
            self._flush()

    def extend(self, batch: Any) -> None:
        """Add the groups of a batch that `batch_of` made."""
        if self._waiting:
            self._flush()
        self._small.append(batch)
        if sum(one.num_rows for one in self._small) >= _BLOCK:
            self._join()

    def table(self) -> GroupTable:
        """All groups so far; nothing can be added afterwards."""
        if self._waiting:
            self._flush()
        self._join()
        if self._path is None:
            return GroupTable(self._batches)
        self._writer.close()
        table = GroupTable.load(self._path)
        _forget(self._path)
        return table

    def _flush(self) -> None:
        self._join()
        self._put(batch_of(self._waiting))
        self._waiting = []

    def _join(self) -> None:
        import pyarrow

        if self._small:
            for batch in pyarrow.Table.from_batches(self._small).combine_chunks().to_batches():
                self._put(batch)
        self._small = []

    def _put(self, batch: Any) -> None:
        if self._writer is None:
            self._batches.append(batch)
            if sum(part.nbytes for part in self._batches) > MOST_IN_MEMORY:
                self._spill()
        else:
            self._writer.write_batch(batch)

    def _spill(self) -> None:
        import pyarrow

        handle, name = tempfile.mkstemp(prefix="exptilt-", suffix=".arrow")
        os.close(handle)
        self._path = Path(name)
        weakref.finalize(self, _forget, self._path)
        self._writer = pyarrow.ipc.new_file(name, _schema())
        for batch in self._batches:
            self._writer.write_batch(batch)
        self._batches = []


def _forget(path: Path) -> None:
    """Remove a temporary file; a map of it stays valid, but on Windows the name can only go once the map is gone."""
    with suppress(OSError):
        path.unlink(missing_ok=True)


def _is_constant(name: str, column: Any) -> bool:
    """Tell whether all rows hold one value. Log-probabilities are not compared: they are long and never alike."""
    import pyarrow

    if column.null_count == len(column):
        return True
    return name != "behaviour" and column.equals(pyarrow.repeat(column[0], len(column)))


def _python(name: str, cell: Any) -> Any:
    """Convert a cell to Python values: lists to tuples, log-probabilities to one array per completion."""
    if name == "behaviour" and cell.is_valid:
        return tuple(part.values.to_numpy().copy() if part.is_valid else None for part in cell.values)
    value = cell.as_py()
    return tuple(value) if isinstance(value, list) else value


def _label(known: dict[str, Any]) -> Label | None:
    if known["p_chosen"] is not None:
        return Preferred(known["p_chosen"], known["margin"])
    if known["ranks"] is not None:
        return Ranked(known["ranks"])
    return None if known["desirable"] is None else Desirable(known["desirable"])


def _fields(groups: Sequence[Group]) -> dict[str, list[Any]]:
    """The columns of groups beside their tokens, by name."""
    labels = [group.label for group in groups]
    return {
        "id": [group.id for group in groups],
        "section": [group.section for group in groups],
        "weight": [group.weight for group in groups],
        "p_chosen": [label.p_chosen if isinstance(label, Preferred) else None for label in labels],
        "margin": [label.margin if isinstance(label, Preferred) else None for label in labels],
        "ranks": [label.ranks if isinstance(label, Ranked) else None for label in labels],
        "desirable": [label.desirable if isinstance(label, Desirable) else None for label in labels],
        "scores": _of_completions([[part.score for part in group.completions] for group in groups]),
        "versions": _of_completions([[part.version for part in group.completions] for group in groups]),
        "behaviour": _of_completions([[part.behaviour for part in group.completions] for group in groups]),
    }


def _of_completions(rows: list[list[Any]]) -> list[list[Any] | None]:
    """Values of all completions by row; None for a row without any value."""
    return [row if any(value is not None for value in row) else None for row in rows]


def batch_of(groups: Sequence[Group]) -> Any:
    """Groups as an Arrow record batch, which travels between processes as it is."""
    import pyarrow

    lengths = [[len(group.prompt), *(len(part.ids) for part in group.completions)] for group in groups]
    tokens = [
        part for group in groups for part in (group.prompt, *(completion.ids for completion in group.completions))
    ]
    counted = [
        part
        for group in groups
        for part in (np.zeros(len(group.prompt), np.bool_), *(p.counted for p in group.completions))
    ]
    edges = pyarrow.array(np.cumsum([0, *map(sum, lengths)], dtype=np.int32))
    columns = {
        "tokens": pyarrow.ListArray.from_arrays(edges, _joined(tokens, np.int32)),
        "counted": pyarrow.ListArray.from_arrays(edges, _joined(counted, np.uint8)),
        "lengths": lengths,
        "num_counted": [[part.length for part in group.completions] for group in groups],
    }
    columns |= _fields(groups)
    return pyarrow.RecordBatch.from_arrays(
        [pyarrow.array(columns[field.name], type=field.type) for field in _schema()], schema=_schema()
    )


def _joined(parts: Sequence[NDArray[Any]], dtype: type) -> Any:
    import pyarrow

    return pyarrow.array(np.concatenate(parts).astype(dtype, copy=False))
