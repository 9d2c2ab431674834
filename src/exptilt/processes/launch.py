"""The process group of a run: any launcher starts the processes, and the run joins them through torch.distributed.

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

import torch
import torch.distributed as dist

from exptilt.errors import TrainingError
from exptilt.processes.world import World, local_device
from exptilt.settings.training_settings import ParallelConfig

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


def _refuse_foreign_launchers() -> None:
    for name, engine in (("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed")):
        if os.environ.get(name, "").lower() == "true":
            raise TrainingError(
                f"accelerate was told to set up {engine}, which exptilt would not see; start with torchrun (or accelerate "
                "launch without it) and choose parallel.kind=fsdp in the recipe"
            )
