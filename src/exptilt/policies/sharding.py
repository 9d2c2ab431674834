"""Sharding of a model's weights over processes by FSDP2."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor

from exptilt.errors import TrainingError
from exptilt.policies.engine.forward import causal_lm
from exptilt.policies.engine.inside import ENTRANCE, make_enterable
from exptilt.processes.world import local_device
from exptilt.settings.training_settings import ParallelConfig


def shard(model: Any, settings: ParallelConfig, precision: torch.dtype, *, widens: bool = False) -> Any:
    """Shard a model's blocks, and its weights outside of them, over all processes; in place.

    One block after the other is moved to the device and cut, and shards are widened when they are all there is, so no
    process ever holds more than its shards and one block.

    The gradient of each weight is the sum over processes, not their mean: the step divides once by the weight of the
    whole batch. Products run in `precision`, gradients are exchanged in float32.

    Args:
        model: anywhere; a PEFT model too.
        settings: whether to keep weights in main memory between uses.
        precision: float32 or bfloat16.
        widens: whether weights become float32 once they are cut.
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
        _move(block, device)
        fully_shard(block, **options)
    _move(model, device)
    # The head is used after the trunk's forward and again in the backward pass, so its weights stay gathered between.
    fully_shard(model, reshard_after_forward=False, **options)
    register_fsdp_forward_method(model, ENTRANCE)
    if widens:
        model.float()
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    return model


def _move(module: nn.Module, device: torch.device) -> None:
    """Bring weights that are not cut yet, and buffers, to the device; what is tied stays tied."""
    for weight in module.parameters():
        if not isinstance(weight, DTensor):
            weight.data = weight.data.to(device)
    for part in module.modules():
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = buffer.to(device)


def blocks_of(model: Any) -> list[Any]:
    """The transformer blocks of a model, by the class names that its architecture gives.

    Raises:
        TrainingError: the architecture names no blocks.
    """
    names = set(getattr(causal_lm(model), "_no_split_modules", None) or ())
    blocks = [module for module in model.modules() if type(module).__name__ in names]
    if not blocks:
        raise TrainingError(
            f"{type(causal_lm(model)).__name__} does not say what its blocks are (_no_split_modules), so it cannot be "
            "cut into shards or compiled; set parallel.kind=ddp and train.compile=false"
        )
    return blocks


def reshard(model: nn.Module) -> None:
    """Free the weights that a forward pass without backward has left gathered; only the shards remain."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
