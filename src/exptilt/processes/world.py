"""The processes that share a run, with sums and decisions over all of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from exptilt.errors import ExptiltError

T = TypeVar("T")

_PATIENCE = timedelta(days=7)
"""How long processes wait for work that takes as long as the data are large."""
_EXCHANGE = 64_000_000
"""Numbers sent at once: large enough for the wire, small enough that the copy does not count."""


@dataclass(frozen=True)
class World:
    """`size` processes that share each global batch, of which this is number `rank`."""

    rank: int
    size: int

    @classmethod
    def alone(cls) -> World:
        """This process and no other."""
        return cls(0, 1)

    @classmethod
    def joined(cls) -> World:
        """The processes of torch's default group, if somebody has set one up (Ray, a test); else this one alone."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls.alone()
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and talks to people."""
        return self.rank == 0

    def gather(self, mine: T) -> list[T]:
        """The objects of all processes, by rank; every process gets the list."""
        if self.size == 1:
            return [mine]
        everyone: list[T | None] = [None] * self.size
        dist.all_gather_object(everyone, mine)
        return everyone  # type: ignore[return-value]

    def first(self, mine: T) -> T:
        """The object of process 0, in every process."""
        if self.size == 1:
            return mine
        box = [mine]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def any(self, *mine: bool) -> list[bool]:
        """Whether each flag is true in at least one process; one small exchange gives all processes the same answer."""
        if self.size == 1:
            return list(mine)
        flags = torch.tensor(mine, dtype=torch.int32, device=local_device())
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return [bool(flag) for flag in flags.tolist()]

    def wait(self) -> None:
        """Wait until every process has reached this call."""
        if self.size > 1:
            dist.barrier()

    def first_alone(self, work: Callable[[], T], *, patient: bool = False) -> T | None:
        """Run `work` in process 0 while the others wait; they get None.

        Args:
            work: what process 0 does.
            patient: whether the others wait however long it takes, as preparing data may take hours; else as long as
                for any exchange. If process 0 dies they stop at once in either case, as its connections close.

        Raises:
            ExptiltError: whatever process 0 ran into, in every process.
        """
        if self.size == 1:
            return work()
        result, failure = None, None
        group = dist.new_group(backend="gloo", timeout=_PATIENCE) if patient else None
        if self.is_first:
            try:
                result = work()
            except ExptiltError as error:
                failure = error
        box = [failure]
        dist.broadcast_object_list(box, src=0, group=group)
        if group is not None:
            dist.destroy_process_group(group)
        failure = box[0]
        if failure is not None:
            failure.told = not self.is_first
            raise failure
        return result

    def first_before_others(self, work: Callable[[], T]) -> T:
        """Run `work` in process 0, however long it takes, then in all others, which find the files of process 0 on disk."""
        result = self.first_alone(work, patient=True)
        return result if self.is_first else work()  # type: ignore[return-value]

    def all_or_none(self, work: Callable[[], T]) -> T:
        """Run `work` in every process.

        Raises:
            ExptiltError: what the first process ran into that failed, in every process.
        """
        if self.size == 1:
            return work()
        result, failure = None, None
        try:
            result = work()
        except ExptiltError as error:
            failure = error
        failures = [one for one in self.gather(failure) if one is not None]
        if failures:
            raise failures[0]
        return result  # type: ignore[return-value]

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over processes, in exchanges of many tensors at once."""
        if self.size == 1:
            return
        for some in _exchanges(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in some])
            dist.all_reduce(flat)
            parts = torch.split(flat, [tensor.numel() for tensor in some])
            for tensor, part in zip(some, parts, strict=True):
                tensor.copy_(part.view_as(tensor))


def local_device() -> torch.device:
    """The device of this process: its own GPU where there is one, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def _exchanges(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Tensors of one dtype together, in order, up to a size."""
    exchanges: list[list[Tensor]] = []
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        room = 0
        for tensor in (tensor for tensor in tensors if tensor.dtype == dtype):
            if tensor.numel() > room:
                exchanges.append([])
                room = _EXCHANGE
            exchanges[-1].append(tensor)
            room -= tensor.numel()
    return exchanges
