"""Reading a checkpoint; a checkpoint that cannot be read is left unchanged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from exptilt.disk import is_refusal, reason
from exptilt.errors import CheckpointError
from exptilt.training.checkpoints.shards import put_back, read_shards

Target = Callable[[str, torch.Size, torch.dtype], Tensor]
"""Name, shape and dtype of a saved tensor -> the tensor to read it into."""

_FAULTS = (OSError, RuntimeError, ValueError, EOFError)


def load_checkpoint(checkpoint: Path, target: Target | None = None) -> dict[str, Any]:
    """Read the state that was given to `Checkpoints.save`.

    Args:
        checkpoint: one that `choose_checkpoint` or `is_complete` has looked at.
        target: tensors to read into; default: new ones on the CPU, whole.

    Raises:
        CheckpointError: the checkpoint cannot be read, or its tensors do not fit.
    """
    bare = load_bare(checkpoint)
    try:
        tensors = read_shards(checkpoint, target or (lambda _name, shape, dtype: torch.empty(shape, dtype=dtype)))
    except _FAULTS as error:
        raise CheckpointError(
            f"{checkpoint}: its tensors cannot be read ({_why(error)}); nothing was deleted"
        ) from error
    state: dict[str, Any] = put_back(bare, tensors)
    return state


def load_bare(checkpoint: Path) -> dict[str, Any]:
    """Read a checkpoint's state without its tensors: a small read, enough to see whether the state fits.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        bare: dict[str, Any] = torch.load(checkpoint / "state.pt", map_location="cpu", weights_only=True)
    except _FAULTS as error:
        raise CheckpointError(f"{checkpoint}: cannot be read ({_why(error)}); nothing was deleted") from error
    return bare


def load_own(checkpoint: Path, rank: int) -> dict[str, Any] | None:
    """Read the state that process `rank` saved for itself; None if there were not that many processes.

    Raises:
        CheckpointError: it cannot be read.
    """
    path = checkpoint / f"process-{rank:05d}.pt"
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except _FAULTS as error:
        raise CheckpointError(f"{path}: cannot be read ({_why(error)}); nothing was deleted") from error
    return state


def _why(error: Exception) -> str:
    """The reason of a read error: the system's words for a disk error, torch's words for any other."""
    return reason(error) if is_refusal(error) else str(error)
