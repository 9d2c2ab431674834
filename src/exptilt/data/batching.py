"""Groups into optimizer steps and micro-batches: seeded, resumable at any step, every group once per epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from exptilt.config import config
from exptilt.data.groups import Group


@config
class BatchConfig:
    """How many groups make a step, and how many tokens are held in memory at once."""

    size: int = 64
    """Groups (prompts with their completions) per optimizer step, over all processes."""
    tokens: int | None = 8192
    """Most tokens per forward pass, a prompt counted once; none: one pass for the step. No result depends on it."""
    shuffle: bool = True
    """A new seeded order each epoch; false keeps the order of the file."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1, got {self.size}")
        if self.tokens is not None and self.tokens < 1:
            raise ValueError(f"tokens must be at least 1, got {self.tokens}")


class Batches:
    """The batches of a run, as a function of the step.

    There is no state but the step's number: `step(n)` is the same in a run that was resumed at n. Which groups make a
    step depends on the seed and the epoch only, not on the number of processes, so that a run on more processes takes
    the same steps. One exception: a last batch with fewer groups than there are processes takes some from the batch
    before it, or joins it where that would leave it too few.

    Example:
        >>> from exptilt.data.groups import Completion
        >>> part = Completion(ids=np.arange(3), counted=np.ones(3, dtype=bool))
        >>> groups = [Group(id=str(n), prompt=np.arange(2), completions=(part,)) for n in range(5)]
        >>> batches = Batches(groups, BatchConfig(size=2, tokens=5), seed=1)
        >>> batches.num_steps, [len(micro) for micro in batches.step(0)]
        (3, [1, 1])
    """

    def __init__(
        self, groups: Sequence[Group], config: BatchConfig, *, seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be in [0, world_size), got {rank} of {world_size}")
        if config.size < world_size:
            raise ValueError(f"batch size must be at least the number of processes, got {config.size} for {world_size}")
        if len(groups) < world_size:
            raise ValueError(f"there are {len(groups)} groups for {world_size} processes; each needs at least one")
        self._groups = groups
        self._config = config
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._edges = _edges(len(groups), config.size, world_size)
        self._order: tuple[int, list[int]] = (-1, [])

    @property
    def num_steps(self) -> int:
        """Steps per epoch; the last one may be short."""
        return len(self._edges) - 1

    def epoch(self, step: int) -> int:
        """The epoch, from 0, that a step belongs to."""
        return step // self.num_steps

    def groups(self, step: int) -> list[Group]:
        """All groups of a step, of all processes, in the epoch's order."""
        epoch, position = divmod(step, self.num_steps)
        order = self._order_of(epoch)
        return [self._groups[index] for index in order[self._edges[position] : self._edges[position + 1]]]

    def step(self, step: int) -> list[list[Group]]:
        """This process's micro-batches of a step, counted from 0 over all epochs.

        Each stays within the token budget, but a group that alone is over it is a micro-batch of its own. All processes
        get equally many micro-batches; where a step has too few groups for that, the first ones get one more.
        """
        packed = pack(self.groups(step), self._config.tokens)
        wanted = -(-len(packed) // self._world_size) * self._world_size
        return _spread(packed, wanted)[self._rank :: self._world_size]

    def __iter__(self) -> Iterator[list[list[Group]]]:
        """The micro-batches of one epoch, the first."""
        return (self.step(step) for step in range(self.num_steps))

    def _order_of(self, epoch: int) -> list[int]:
        if self._order[0] != epoch:
            count = len(self._groups)
            order = (
                np.random.default_rng((self._seed, epoch)).permutation(count)
                if self._config.shuffle
                else np.arange(count)
            )
            self._order = (epoch, order.tolist())
        return self._order[1]


def pack(groups: Sequence[Group], tokens: int | None) -> list[list[Group]]:
    """Pack groups into as few bins of at most `tokens` unique tokens as first-fit-decreasing finds.

    A group that is longer than `tokens` has a bin of its own. Bins come longest first, so that memory runs out at once
    or never.
    """
    if tokens is None:
        return [list(groups)] if groups else []
    bins: list[list[Group]] = []
    room: list[int] = []
    for group in sorted(groups, key=lambda group: -group.num_tokens):
        size = group.num_tokens
        place = next((at for at, free in enumerate(room) if size <= free), None)
        if place is None:
            bins.append([group])
            room.append(tokens - size)
        else:
            bins[place].append(group)
            room[place] -= size
    return sorted(bins, key=_num_tokens, reverse=True)


def _spread(bins: list[list[Group]], wanted: int) -> list[list[Group]]:
    """Split the longest bins until there are `wanted` of them or each group stands alone; longest first."""
    bins = list(bins)
    while len(bins) < wanted:
        at = max(
            (at for at, bin_ in enumerate(bins) if len(bin_) > 1), key=lambda at: _num_tokens(bins[at]), default=None
        )
        if at is None:
            break
        halves = _halved(bins.pop(at))
        bins.extend(halves)
    return sorted(bins, key=_num_tokens, reverse=True)


def _halved(groups: list[Group]) -> tuple[list[Group], list[Group]]:
    one: list[Group] = []
    other: list[Group] = []
    for group in sorted(groups, key=lambda group: -group.num_tokens):
        (one if _num_tokens(one) <= _num_tokens(other) else other).append(group)
    return one, other


def _num_tokens(groups: Sequence[Group]) -> int:
    return sum(group.num_tokens for group in groups)


def _edges(count: int, size: int, world_size: int) -> list[int]:
    """Where steps begin and end; each holds at least one group per process."""
    edges = [*range(0, count, size), count]
    if len(edges) > 2 and count - edges[-2] < world_size:
        edges[-2] = count - world_size
        if edges[-2] - edges[-3] < world_size:
            del edges[-2]
    return edges
