"""The processes of a run: sums over all of them, and nothing else a step needs to know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


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
        """The processes of torch's default group, which somebody (torchrun, Ray, SLURM) has set up."""
        return cls(dist.get_rank(), dist.get_world_size())

    def gather(self, mine: T) -> list[T]:
        """Everybody's object, by rank; each process gets all of them."""
        if self.size == 1:
            return [mine]
        everyone: list[T | None] = [None] * self.size
        dist.all_gather_object(everyone, mine)
        return [item for item in everyone if item is not None]

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over processes, in one exchange for each dtype."""
        if self.size == 1:
            return
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            some = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.reshape(-1) for tensor in some])
            dist.all_reduce(flat)
            parts = torch.split(flat, [tensor.numel() for tensor in some])
            for tensor, part in zip(some, parts, strict=True):
                tensor.copy_(part.view_as(tensor))
