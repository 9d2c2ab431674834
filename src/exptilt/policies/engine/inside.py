"""Work on a model inside its own forward, so that sharding gathers weights for it and precision applies to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import MethodType
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

T = TypeVar("T")

ENTRANCE = "exptilt_inside"
"""The method of a sharded model that `inside` runs work through."""
_PRECISION = "exptilt_precision"


def inside(model: Any, work: Callable[..., T], *args: Any) -> T:
    """Run `work(*args)` as if it were the model's forward.

    The engine uses parts of a model (its trunk, its head) that no single `forward` calls in the way packed rows need.
    Where weights are sharded, the hooks that gather them fire here. What `work` returns must be made of tuples, lists,
    dicts and tensors, in which the hooks look for what backward will begin from.
    """
    with _arithmetic(model):
        if not hasattr(model, ENTRANCE):
            return work(*args)
        result: T = getattr(model, ENTRANCE)(work, *args)
        if not torch.is_grad_enabled():
            model.reshard()  # no backward pass will, and until then `model.parameters()` are not the shards
        return result


def beside(reference: Any, work: Callable[[], T]) -> T:
    """Run `work`, which runs another model, while a sharded reference's weights are gathered as well.

    The reference is entered without a graph, so that backward will not gather it again; `work` has one if the caller has.
    """
    if reference is None or ENTRANCE not in vars(reference):  # with its adapter off, the other model is the reference
        return work()
    graph = torch.is_grad_enabled()

    def with_graph() -> T:
        with torch.set_grad_enabled(graph):
            return work()

    with torch.no_grad():
        return inside(reference, with_graph)


def running(model: Any) -> AbstractContextManager[None]:
    """Enter the state that a model needs around every forward, such as a switched-off adapter."""
    return model.running() if hasattr(type(model), "running") else nullcontext()


def make_enterable(model: Any) -> None:
    """Give a model that is about to be sharded the method that `inside` runs work through."""

    def run(_self: Any, work: Callable[..., Any], *args: Any) -> Any:
        # The hooks that gather weights for backward sit on what is returned, and could be lost from a view.
        return tree_map_only(Tensor, lambda tensor: tensor.clone() if tensor._is_view() else tensor, work(*args))

    object.__setattr__(model, ENTRANCE, MethodType(run, model))


def set_precision(model: Any, dtype: torch.dtype) -> None:
    """Let the engine run this model's arithmetic in `dtype` from now on, whatever dtype its weights have."""
    object.__setattr__(model, _PRECISION, dtype)


def precision_of(model: Any) -> torch.dtype:
    """The dtype of the model's matrix products: the dtype given to `set_precision`, else that of its weights."""
    dtype: torch.dtype = getattr(model, _PRECISION, None) or next(model.parameters()).dtype
    return dtype


@contextmanager
def _arithmetic(model: Any) -> Iterator[None]:
    dtype = getattr(model, _PRECISION, torch.float32)
    device = next(model.parameters()).device.type
    context = torch.autocast(device, dtype) if dtype == torch.bfloat16 else nullcontext()
    with context:
        yield
