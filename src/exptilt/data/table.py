"""Many groups in a few flat arrays: four bytes a token, in memory or mapped from files. Never imports torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from exptilt.data.groups import Completion, Group

_CHUNK = 4096
"""Groups held as objects before they are laid flat."""
_FLAT = ("tokens", "counted", "name_bytes", "ranks", "scores", "p_chosen", "margin", "weight", "desirable")
"""Arrays of values."""
_SIZES = ("piece_sizes", "num_counted", "num_pieces", "name_sizes")
"""Arrays of lengths, from which positions are made: of each prompt and completion, of each group, of each name."""
Arrays = dict[str, NDArray[Any]]


class GroupTable(Sequence[Group]):
    """A sequence of groups that keeps no object per group; a group is made when it is asked for.

    Example:
        >>> part = Completion(ids=np.arange(3, dtype=np.int32), counted=np.ones(3, dtype=bool))
        >>> table = GroupTable.of(Group(id=f"a:{n}", prompt=np.arange(n), completions=(part,)) for n in range(5))
        >>> len(table), table[3].id, len(table[-1].prompt), [group.id for group in table[:2]]
        (5, 'a:3', 4, ['a:0', 'a:1'])
    """

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays
        self._pieces = _positions(arrays["num_pieces"])
        self._tokens = _positions(arrays["piece_sizes"])
        self._names = _positions(arrays["name_sizes"])

    @classmethod
    def of(cls, groups: Iterable[Group]) -> GroupTable:
        """A table of groups, which are taken one by one."""
        builder = TableBuilder()
        for group in groups:
            builder.add(group)
        return builder.table()

    def __len__(self) -> int:
        return len(self._arrays["num_pieces"])

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
        arrays, first, last = self._arrays, int(self._pieces[at]), int(self._pieces[at + 1])
        completions = tuple(
            Completion(ids=self._part("tokens", piece), counted=self._part("counted", piece))
            for piece in range(first + 1, last)
        )
        ranks = arrays["ranks"][first + 1 : last]
        scores = arrays["scores"][first + 1 : last]
        margin = float(arrays["margin"][at])
        return Group(
            id=arrays["name_bytes"][self._names[at] : self._names[at + 1]].tobytes().decode(),
            prompt=self._part("tokens", first),
            completions=completions,
            p_chosen=float(arrays["p_chosen"][at]),
            margin=None if np.isnan(margin) else margin,
            ranks=tuple(ranks.tolist()) if ranks.all() else (),
            scores=None if np.isnan(scores).any() else tuple(scores.tolist()),
            desirable=bool(arrays["desirable"][at]),
            weight=float(arrays["weight"][at]),
        )

    def _part(self, name: str, piece: int) -> NDArray[Any]:
        """A copy, so that a group can be written to and outlives the file."""
        return np.array(self._arrays[name][self._tokens[piece] : self._tokens[piece + 1]])

    @property
    def prompt_lengths(self) -> NDArray[np.int64]:
        """(G,) tokens of each prompt."""
        return np.diff(self._tokens)[self._pieces[:-1]]

    def completion_lengths(self, position: int | None = None) -> NDArray[Any]:
        """Counted tokens of every completion, or (G,) of that at `position` in each group."""
        lengths = np.asarray(self._arrays["num_counted"])
        if position is not None:
            return lengths[self._pieces[:-1] + 1 + position]
        return np.delete(lengths, self._pieces[:-1])

    def save(self, folder: Path) -> None:
        """Write the arrays into a folder."""
        for name, array in self._arrays.items():
            np.save(folder / f"{name}.npy", array)

    @classmethod
    def load(cls, folder: Path) -> GroupTable:
        """Map the arrays that `save` wrote; what is not used is not read."""
        arrays = {}
        for name in (*_FLAT, *_SIZES):
            path = folder / f"{name}.npy"
            arrays[name] = np.load(path, mmap_mode="r")
        return cls(arrays)


class TableBuilder:
    """Collects groups into a table."""

    def __init__(self) -> None:
        self._waiting: list[Group] = []
        self._done: list[Arrays] = []

    def add(self, group: Group) -> None:
        """Add a group at the end."""
        self._waiting.append(group)
        if len(self._waiting) == _CHUNK:
            self._lay_flat()

    def table(self) -> GroupTable:
        """All groups so far."""
        self._lay_flat()
        return GroupTable({name: np.concatenate([part[name] for part in self._done]) for name in self._done[0]})

    def _lay_flat(self) -> None:
        groups, self._waiting = self._waiting, []
        names = [group.id.encode() for group in groups]
        pieces = [piece for group in groups for piece in (group.prompt, *(part.ids for part in group.completions))]
        per_piece = [pair for group in groups for pair in _ranks_and_scores(group)]
        counted = [_counted(group) for group in groups]
        self._done.append(
            {
                "tokens": _joined(pieces, np.int32),
                "counted": _joined(counted, np.bool_),
                "piece_sizes": np.array([len(piece) for piece in pieces], dtype=np.int64),
                "num_counted": np.array(
                    [size for group in groups for size in (0, *(part.length for part in group.completions))],
                    dtype=np.int64,
                ),
                "num_pieces": np.array([1 + len(group.completions) for group in groups], dtype=np.int64),
                "name_bytes": np.frombuffer(b"".join(names), dtype=np.uint8),
                "name_sizes": np.array([len(name) for name in names], dtype=np.int64),
                "ranks": np.array([rank for rank, _ in per_piece], dtype=np.int32),
                "scores": np.array([score for _, score in per_piece], dtype=np.float64),
                "p_chosen": np.array([group.p_chosen for group in groups], dtype=np.float64),
                "margin": np.array([_or_nan(group.margin) for group in groups], dtype=np.float64),
                "weight": np.array([group.weight for group in groups], dtype=np.float64),
                "desirable": np.array([group.desirable for group in groups], dtype=np.bool_),
            }
        )


def _ranks_and_scores(group: Group) -> Iterator[tuple[int, float]]:
    """For the prompt, which has neither, and for each completion; 0 and NaN stand for none."""
    yield 0, np.nan
    for position in range(len(group.completions)):
        rank = group.ranks[position] if group.ranks else 0
        yield rank, _or_nan(group.scores[position] if group.scores is not None else None)


def _counted(group: Group) -> NDArray[np.bool_]:
    return np.concatenate([np.zeros(len(group.prompt), dtype=np.bool_), *(part.counted for part in group.completions)])


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value


def _joined(parts: Sequence[NDArray[Any]], dtype: type) -> NDArray[Any]:
    return np.concatenate(parts).astype(dtype, copy=False) if parts else np.zeros(0, dtype=dtype)


def _positions(sizes: NDArray[Any]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
