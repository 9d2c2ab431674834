"""Groups into optimizer steps and micro-batches: seeded, resumable at any step, every group once per epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from exptilt.data.groups import Group
from exptilt.data.mixing import TwoOf
from exptilt.data.problems import finding_of
from exptilt.run_folder.data_record import Finding
from exptilt.settings.data_settings import BatchConfig


class Batches:
    """The batches of a run, as a function of the step's number.

    There is no state but the step's number: `step(n)` is the same in a run that was resumed at n. Which groups make a
    step depends on the seed and the epoch only, not on the number of processes, so that a run on more processes takes
    the same steps. One exception: a last batch with fewer groups than there are processes, or than the objective can be
    formed on, takes some from the batch before it, or joins it where that would leave it too few.

    Where every step must hold two values of something (`two_of`), groups are exchanged between steps until it does, so
    far as there are enough of them; `short_steps` names the others. `draw` gives another order: (epoch, number of groups) ->
    their places.

    Example:
        >>> from exptilt.data.groups import Completion
        >>> part = Completion(ids=np.arange(3), counted=np.ones(3, dtype=bool))
        >>> groups = [Group(id=str(n), prompt=np.arange(2), completions=(part,)) for n in range(5)]
        >>> batches = Batches(groups, BatchConfig(size=2, tokens=5), seed=1)
        >>> batches.num_steps, [len(micro) for micro in batches.step(0)]
        (3, [1, 1])
    """

    def __init__(
        self,
        groups: Sequence[Group],
        config: BatchConfig,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        two_of: TwoOf | None = None,
        draw: Callable[[int, int], NDArray[np.int64]] | None = None,
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
        self._two_of = two_of
        self._draw = draw or self._own_order
        least = 1 if two_of is None else min(2, config.size)
        self._edges = _edges(len(groups), config.size, max(world_size, least))
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.zeros(0, dtype=np.int64))

    @property
    def num_steps(self) -> int:
        """Steps per epoch; the last one may be short."""
        return len(self._edges) - 1

    def epoch(self, step: int) -> int:
        """The epoch that a step belongs to, from 0."""
        return step // self.num_steps

    def groups(self, step: int) -> list[Group]:
        """All groups of a step over all processes, in the epoch's order."""
        epoch, position = divmod(step, self.num_steps)
        order = self._order_of(epoch)
        return [self._groups[int(index)] for index in order[self._edges[position] : self._edges[position + 1]]]

    def step(self, step: int) -> list[list[Group]]:
        """The micro-batches of a step that this process runs; steps count from 0 over all epochs.

        Each stays within the token budget, but a group that alone is over it is a micro-batch of its own. All processes
        get equally many micro-batches, as sharded models need; where a step has too few groups for that, the last of
        some processes' is empty. Each process has at least one that is not.
        """
        return shares(pack(self.groups(step), self._config.limit), self._world_size)[self._rank]

    def short_steps(self, epoch: int = 0) -> int:
        """Number of steps in an epoch that lack the two values they need."""
        if self._two_of is None:
            return 0
        order = self._order_of(epoch)
        return sum(not self._two_of.holds(order[begin:end]) for begin, end in pairwise(self._edges))

    def __iter__(self) -> Iterator[list[list[Group]]]:
        """Iterate over the micro-batches of the first epoch."""
        return (self.step(step) for step in range(self.num_steps))

    def _own_order(self, epoch: int, count: int) -> NDArray[np.int64]:
        return np.random.default_rng((self._seed, epoch)).permutation(count)

    def _order_of(self, epoch: int) -> NDArray[np.int64]:
        if self._order[0] != epoch:
            count = len(self._groups)
            order = self._draw(epoch, count) if self._config.shuffle else np.arange(count)
            self._order = (epoch, order if self._two_of is None else self._two_of.spread(order, self._edges))
        return self._order[1]


def by_size(sizes: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Indices of groups of similar size, the largest first, with at most `tokens` unique tokens together.

    A larger group goes alone. It suits scoring, where the composition of a batch changes no result.

    Example:
        >>> list(by_size([4, 9, 3], tokens=8))
        [[1], [0, 2]]
    """
    batch: list[int] = []
    total = 0
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        if batch and total + sizes[index] > tokens:
            yield batch
            batch, total = [], 0
        batch.append(index)
        total += sizes[index]
    if batch:
        yield batch


def pack(groups: Sequence[Group], tokens: int | None) -> list[list[Group]]:
    """Pack groups into as few bins of at most `tokens` unique tokens as first-fit-decreasing finds.

    A group that is longer than `tokens` has a bin of its own. Bins come longest first, so that memory runs out at once
    or never.
    """
    if tokens is None:
        return [list(groups)] if groups else []
    bins: list[list[Group]] = []
    room: list[int] = []
    sizes = [group.num_tokens for group in groups]
    for at in sorted(range(len(groups)), key=lambda at: -sizes[at]):
        group, size = groups[at], sizes[at]
        index = next((at for at, free in enumerate(room) if size <= free), None)
        if index is None:
            bins.append([group])
            room.append(tokens - size)
        else:
            bins[index].append(group)
            room[index] -= size
    return [bins[at] for at in sorted(range(len(bins)), key=lambda at: room[at])]


def shares(micro_batches: Sequence[list[Group]], world_size: int) -> list[list[list[Group]]]:
    """Deal micro-batches out to processes, the longest first, so that each gets equally many.

    If their number does not divide, the longest are split; if there are no groups left to split, some processes
    get empty ones at their end.

    Example:
        >>> one = Group(id="a", prompt=np.arange(2), completions=())
        >>> [[len(micro) for micro in share] for share in shares([[one, one], [one]], 2)]
        [[2], [1]]
        >>> [[len(micro) for micro in share] for share in shares([[one], [one], [one]], 2)]
        [[1, 1], [1, 0]]
    """
    num_bins = -(-len(micro_batches) // world_size) * world_size
    spread = _spread(list(micro_batches), num_bins)
    spread += [[] for _ in range(num_bins - len(spread))]
    return [spread[rank::world_size] for rank in range(world_size)]


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetUse:
    """The fill of micro-batches. Nothing is ever padded: free room costs memory but no time."""

    steps: int
    groups: int
    micro_batches: int
    num_tokens: int
    """Unique tokens in them, but for groups that alone are over the budget."""
    budget: int
    num_over: int
    """Groups that alone are over the budget; each is a micro-batch of its own."""

    @property
    def fill(self) -> float:
        """Tokens divided by room of the micro-batches within the budget; 0 without any."""
        room = self.budget * (self.micro_batches - self.num_over)
        return self.num_tokens / room if room else 0.0

    def finding(self) -> Finding:
        """The finding for the data report."""
        parts, size = f"{self.micro_batches / self.steps:.3g}", f"{self.groups / self.steps:.0f}"
        message = (
            f"a step of {size} example{'s' * (size != '1')} is {parts} micro-batch{'es' * (parts != '1')} "
            f"of at most {self.budget} tokens, {100 * self.fill:.0f} % full, and nothing is padded"
        )
        if not self.num_over:
            return finding_of("batches", message, self.micro_batches)
        over = f"; {self.num_over} of {self.groups} examples looked at are longer than batch.tokens={self.budget} alone"
        return finding_of("over_budget", message + over, self.num_over)


def budget_use(steps: Iterable[Sequence[Sequence[Group]]], tokens: int) -> BudgetUse:
    """Count over the micro-batches of steps on all processes; a few dozen steps are as good as an epoch."""
    each = [[(len(micro), _num_tokens(micro)) for micro in step if micro] for step in steps]
    flat = [pair for step in each for pair in step]
    within = [size for _, size in flat if size <= tokens]
    return BudgetUse(
        steps=len(each),
        groups=sum(count for count, _ in flat),
        micro_batches=len(flat),
        num_tokens=sum(within),
        budget=tokens,
        num_over=len(flat) - len(within),
    )


def _spread(bins: list[list[Group]], num_bins: int) -> list[list[Group]]:
    """Split the longest bins until there are `num_bins` of them or each group stands alone; longest first."""
    bins = list(bins)
    while len(bins) < num_bins:
        at = max(
            (at for at, bin_ in enumerate(bins) if len(bin_) > 1), key=lambda at: _num_tokens(bins[at]), default=None
        )
        if at is None:
            break
        halves = _halved(bins.pop(at))
        bins.extend(halves)
    return sorted(bins, key=_num_tokens, reverse=True)


def _halved(groups: list[Group]) -> tuple[list[Group], list[Group]]:
    smaller: list[Group] = []
    larger: list[Group] = []
    for group in sorted(groups, key=lambda group: -group.num_tokens):
        (smaller if _num_tokens(smaller) <= _num_tokens(larger) else larger).append(group)
    return smaller, larger


def _num_tokens(groups: Sequence[Group]) -> int:
    return sum(group.num_tokens for group in groups)


def _edges(count: int, size: int, least: int) -> list[int]:
    """Bounds of the steps; each step holds at least `least` groups if the size of a batch allows it."""
    edges = [*range(0, count, size), count]
    if len(edges) > 2 and count - edges[-2] < least:
        edges[-2] = count - least
        if edges[-2] - edges[-3] < least:
            del edges[-2]
    return edges
