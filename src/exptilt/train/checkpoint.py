"""Checkpoints that are complete or do not exist.

A checkpoint is a folder `checkpoints/step-00000040` with `state.pt` and `manifest.json`. It is written under a temporary
name, flushed to disk, and renamed as the last act; the manifest holds sizes and digests, so a damaged one is passed over
in favour of the one before.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from exptilt.errors import CheckpointError

_PREFIX = "step-"


def save_checkpoint(folder: Path, step: int, state: Mapping[str, Any], keep: int) -> Path:
    """Write one checkpoint atomically, then remove the oldest beyond `keep`.

    Args:
        folder: the run's `checkpoints` folder; made if absent.
        step: optimizer steps done.
        state: anything `torch.save` can write and `weights_only` loading can read.
        keep: how many to keep, >= 1.

    Raises:
        CheckpointError: the disk refuses; earlier checkpoints are untouched.
    """
    final = folder / f"{_PREFIX}{step:08d}"
    temporary = folder / f".writing-{final.name}-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        torch.save(dict(state), temporary / "state.pt")
        _flush(temporary / "state.pt")
        manifest = {"step": step, "files": {"state.pt": _describe(temporary / "state.pt")}}
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1))
        _flush(temporary / "manifest.json")
        _flush(temporary)
        if final.exists():  # a damaged one of the same step, passed over on resume
            shutil.rmtree(final)
        os.replace(temporary, final)
        _flush(folder)
    except (OSError, RuntimeError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(f"{final}: could not be written ({error}); earlier checkpoints are intact") from error
    _prune(folder, keep)
    return final


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of a `checkpoints` folder, or None."""
    for candidate in sorted(folder.glob(f"{_PREFIX}*"), reverse=True):
        if is_complete(candidate):
            return candidate
    return None


def discard_after(folder: Path, step: int) -> None:
    """Remove what lies past `step`: damaged checkpoints, and those of a run that is started anew."""
    for later in folder.glob(f"{_PREFIX}*"):
        if later.name > f"{_PREFIX}{step:08d}":
            shutil.rmtree(later)


def is_complete(checkpoint: Path) -> bool:
    """Whether every file of a checkpoint has the size and digest its manifest promises."""
    try:
        files = json.loads((checkpoint / "manifest.json").read_text())["files"]
        return all(_describe(checkpoint / name) == description for name, description in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def load_checkpoint(checkpoint: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint's state.

    Raises:
        CheckpointError: it is damaged or absent.
    """
    if not is_complete(checkpoint):
        raise CheckpointError(f"{checkpoint}: is not a complete checkpoint (missing, truncated or altered)")
    state: dict[str, Any] = torch.load(checkpoint / "state.pt", map_location=device, weights_only=True)
    return state


def random_state() -> dict[str, Any]:
    """The state of every random generator a run may use."""
    version, keys, gauss = random.getstate()
    bits: Any = np.random.get_state(legacy=False)  # noqa: NPY002 - third-party code may still draw from the global generator
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": [version, list(keys), gauss],
        "numpy": [torch.from_numpy(bits["state"]["key"].astype(np.int64)), int(bits["state"]["pos"])],
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Set every random generator as `random_state` found it."""
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([item.cpu() for item in state["cuda"]])
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    key, position = state["numpy"]
    words = key.cpu().numpy().astype(np.uint32)
    np.random.set_state({"bit_generator": "MT19937", "state": {"key": words, "pos": position}})  # noqa: NPY002


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "blake2b").hexdigest()
    return {"bytes": path.stat().st_size, "blake2b": digest}


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _prune(folder: Path, keep: int) -> None:
    for old in sorted(folder.glob(f"{_PREFIX}*"))[:-keep]:
        shutil.rmtree(old)
    for abandoned in folder.glob(".writing-*"):
        shutil.rmtree(abandoned, ignore_errors=True)
