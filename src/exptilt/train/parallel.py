"""Processes and sharding, by torch's own engine: whoever started the processes, the run joins them.

    torchrun --nproc-per-node 8 -m exptilt train recipe.yaml parallel.kind=fsdp

`ddp` keeps a copy of the model in every process; the step adds gradients up once per optimizer step. `fsdp` shards
weights, gradients and optimizer by block (FSDP2, `fully_shard`); every forward and backward is then an exchange, so all
processes must make equally many, which batches see to.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

from exptilt.errors import TrainingError
from exptilt.policies.forward import causal_lm
from exptilt.policies.inside import ENTRANCE, make_enterable
from exptilt.policies.world import World, local_device
from exptilt.train.settings import ParallelConfig

TIMEOUT = timedelta(minutes=10)
"""How long processes wait for each other: longer than a checkpoint takes, short enough that nobody waits in vain."""


@contextmanager
def joined(settings: ParallelConfig) -> Iterator[World]:
    """The processes of this run, joined; a group that somebody else has set up is used and left as it is.

    Raises:
        TrainingError: several processes were started and the recipe wants one, or a launcher expects another engine.
    """
    _refuse_foreign_launchers()
    size = dist.get_world_size() if dist.is_initialized() else int(os.environ.get("WORLD_SIZE", "1"))
    if size > 1 and settings.kind == "none":
        raise TrainingError(f"{size} processes were started, but parallel.kind is none; set it to ddp or fsdp")
    device = local_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    ours = not dist.is_initialized() and (size > 1 or settings.kind == "fsdp")
    if ours:
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        if size > 1:
            dist.init_process_group(backend, timeout=TIMEOUT)
        else:
            dist.init_process_group(backend, store=torch._C._distributed_c10d.HashStore(), rank=0, world_size=1)
    try:
        yield World.joined()
    finally:
        if ours and dist.is_initialized():
            dist.destroy_process_group()


def shard(model: Any, settings: ParallelConfig, precision: torch.dtype) -> Any:
    """Shard a model's blocks, and what lies outside of them, over all processes; in place.

    The gradient of each weight is the sum over processes, not their mean: the step divides once by the weight of the
    whole batch. Products run in `precision`, gradients are exchanged in float32.

    Args:
        model: on the device it will run on; a PEFT model too.
        settings: whether to keep weights in main memory between uses.
        precision: float32 or bfloat16.
    """
    device = local_device()
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    products = torch.bfloat16 if precision == torch.bfloat16 else None
    options: dict[str, Any] = {
        "mesh": mesh,
        "mp_policy": MixedPrecisionPolicy(param_dtype=products, reduce_dtype=torch.float32 if products else None),
        "offload_policy": CPUOffloadPolicy() if settings.cpu_offload and device.type == "cuda" else OffloadPolicy(),
    }
    make_enterable(model)
    for block in blocks_of(model):
        fully_shard(block, **options)
    # The head is used after the trunk's forward and again in the backward pass, so its weights stay gathered between.
    fully_shard(model, reshard_after_forward=False, **options)
    register_fsdp_forward_method(model, ENTRANCE)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    return model


def blocks_of(model: Any) -> list[Any]:
    """The transformer blocks, as the architecture names them.

    Raises:
        TrainingError: it names none.
    """
    names = set(getattr(causal_lm(model), "_no_split_modules", None) or ())
    found = [module for module in model.modules() if type(module).__name__ in names]
    if not found:
        raise TrainingError(
            f"{type(causal_lm(model)).__name__} does not say what its blocks are (_no_split_modules), so it cannot be "
            "cut into shards or compiled; set parallel.kind=ddp and train.compile=false"
        )
    return found


def _refuse_foreign_launchers() -> None:
    for name, engine in (("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed")):
        if os.environ.get(name, "").lower() == "true":
            raise TrainingError(
                f"accelerate was told to set up {engine}, which exptilt would not see; start with torchrun (or accelerate "
                "launch without it) and choose parallel.kind=fsdp in the recipe"
            )
