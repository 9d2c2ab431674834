"""Tensors of a checkpoint, through torch's distributed checkpoint: every process writes its shards, any number reads them.

The phases are those of `torch.distributed.checkpoint.save`, kept apart so that the exchange between processes happens in
the training thread and the writing wherever it costs least.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, WriteItem
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.storage import WriteResult
from torch.distributed.tensor import DTensor

from exptilt.processes.world import World

_MARK = "tensor at"


def lift(tree: Any, name: str = "") -> tuple[Any, dict[str, Tensor]]:
    """Take the tensors out of nested dicts and lists; other values stay.

    Example:
        >>> tree, tensors = lift({"a": [torch.ones(2), 3]})
        >>> tree, sorted(tensors)
        ({'a': [{'tensor at': 'a/0'}, 3]}, ['a/0'])
    """
    if isinstance(tree, Tensor) and (tree.ndim or isinstance(tree, DTensor)):
        return {_MARK: name}, {name: tree.detach()}
    if not isinstance(tree, Mapping | list | tuple):
        return tree, {}
    items = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
    parts = {key: lift(value, f"{name}/{key}" if name else str(key)) for key, value in items}
    tensors = {path: tensor for _, some in parts.values() for path, tensor in some.items()}
    bare = {key: part for key, (part, _) in parts.items()}
    if isinstance(tree, Mapping):
        return bare, tensors
    return tuple(bare.values()) if isinstance(tree, tuple) else list(bare.values()), tensors


def put_back(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `lift`."""
    if isinstance(tree, dict):
        if list(tree) == [_MARK]:
            return tensors[tree[_MARK]]
        return {key: put_back(value, tensors) for key, value in tree.items()}
    return type(tree)(put_back(value, tensors) for value in tree) if isinstance(tree, list | tuple) else tree


class _Planner(DefaultSavePlanner):
    """Hands out copies on request, so that training may go on while they are written."""

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self.copies: dict[MetadataIndex, Any] = {}

    def take_copies(self) -> None:
        for item in self.plan.items:
            data = super().resolve_data(item)
            self.copies[item.index] = data.detach().to("cpu", copy=True) if isinstance(data, Tensor) else data

    def resolve_data(self, write_item: WriteItem) -> Any:
        return self.copies[write_item.index] if self.copies else super().resolve_data(write_item)


@dataclass
class ShardWriter:
    """Writes named tensors into a folder that all processes see: whole tensors once, shards by the processes that hold them."""

    folder: Path
    tensors: dict[str, Tensor]
    world: World
    planner: _Planner = field(default_factory=_Planner, init=False)
    metadata: Metadata | None = field(default=None, init=False)
    """The index of all shards, which process 0 writes."""

    def __post_init__(self) -> None:
        self.writer = FileSystemWriter(self.folder, sync_files=True)

    def plan(self, copy: bool) -> None:
        """Agree on the tensors that each process writes; every process calls it at the same moment.

        Args:
            copy: take copies now, so that the tensors may change before they are written.
        """
        first = self.world.is_first
        self.planner.set_up_planner(self.tensors, is_coordinator=first)
        self.writer.set_up_storage_writer(first, rank=self.world.rank)
        plans = self.world.gather(self.writer.prepare_local_plan(self.planner.create_local_plan()))
        if first:
            plans, self.metadata = self.planner.create_global_plan(plans)
            plans = self.writer.prepare_global_plan(plans)
        mine: SavePlan = self.world.first(plans)[self.world.rank]
        self.planner.finish_plan(mine)
        if copy:
            self.planner.take_copies()
        self.tensors = {}

    def write(self) -> list[WriteResult]:
        """Write and flush this process's share; no exchange with others."""
        results: list[WriteResult] = self.writer.write_data(self.planner.plan, self.planner).value()
        self.planner.copies = {}
        return results

    def finish(self, results: list[list[WriteResult]]) -> None:
        """Write the index of all shards; process 0 calls it alone, after all have written."""
        assert self.metadata is not None  # noqa: S101 - for the type checker
        self.writer.finish(self.metadata, results)


def read_shards(folder: Path, target: Callable[[str, torch.Size, torch.dtype], Tensor]) -> dict[str, Tensor]:
    """Read all tensors, each into the tensor that `target` gives for its name, shape and dtype, with that one's sharding.

    Every process reads what it needs; there is no exchange, and it does not matter how many processes wrote.

    Raises:
        ValueError: a target has another shape.
    """
    described = FileSystemReader(folder).read_metadata().state_dict_metadata
    tensors: dict[str, Any] = {
        name: target(name, what.size, what.properties.dtype)
        for name, what in described.items()
        if isinstance(what, TensorStorageMetadata)
    }
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="torch.distributed is disabled"
        )  # on purpose: each process reads for itself
        try:
            load(tensors, checkpoint_id=folder, planner=planner, no_dist=True)
        except CheckpointException as failure:  # no Exception, so that nothing else would catch it
            raise ValueError("; ".join(str(error) for error, _ in failure.failures.values())) from failure
    return tensors
