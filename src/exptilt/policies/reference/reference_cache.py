"""The disk cache of the reference's log-probabilities, keyed by content.

    <folder>/<weights and precision>/<content>.safetensors

An example's key is a hash of its token ids and of which of them count, so learning rate, seed, order, output folder and
other rows of a data set change nothing. Shards are only ever added, each under its final name in one rename: a killed
run loses the last minute, and several runs may share a folder.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Container, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from exptilt.disk import cache_folder, write_whole
from exptilt.errors import DiskError
from exptilt.policies.reference.kept_logps import KeptLogProbs, Key, Scored
from exptilt.types import LogProbs

logger = logging.getLogger(__name__)
_KEY_SIZE = 32


class ReferenceCache:
    """Log-probabilities of examples under given weights, in shards on disk."""

    def __init__(self, folder: str | Path | None = None, *, save_every: float = 60.0) -> None:
        """Choose a folder; nothing is read or written yet.

        Args:
            folder: default `EXPTILT_CACHE`/reference if that variable is set, else ~/.cache/exptilt/reference.
            save_every: seconds of work a killed run may lose.
        """
        self.folder = Path(folder) if folder is not None else cache_folder("reference")
        self.save_every = save_every

    def read(self, weights: str) -> KeptLogProbs:
        """Read all examples scored by these weights, by key; a damaged shard is reported, removed and left out."""
        logps = KeptLogProbs()
        for path in sorted((self.folder / weights).glob("*.safetensors")):
            try:
                logps.add(*_read_shard(path))
            except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
                logger.warning("%s: damaged reference shard (%s); removed, its rows are scored again", path, error)
                path.unlink(missing_ok=True)
        return logps

    def plan(self, weights: str, keys: list[Key], known: Container[Key]) -> list[Key]:
        """The list of `keys` to score in this pass; a resumed pass gets the list of the pass that was killed.

        Batches are cut from this list. If they were cut from the missing rows, a row would have other neighbours after a
        resume, and with them other last bits than in a pass that was never stopped.
        """
        path = self._plan_path(weights, keys)
        try:
            planned = path.read_bytes()
            return [planned[at : at + _KEY_SIZE] for at in range(0, len(planned), _KEY_SIZE)]
        except OSError:
            missing = [key for key in keys if key not in known]
        if missing:
            with suppress(OSError, DiskError):  # without it only the last bits of a resumed pass may differ
                path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(path, b"".join(missing))
        return missing

    def forget_plan(self, weights: str, keys: list[Key]) -> None:
        """Delete the plan of a pass that is complete."""
        with suppress(OSError):
            self._plan_path(weights, keys).unlink(missing_ok=True)

    def _plan_path(self, weights: str, keys: list[Key]) -> Path:
        return self.folder / weights / f"{hashlib.sha256(b''.join(keys)).hexdigest()[:32]}.plan"

    def write(self, weights: str, rows: Sequence[Scored]) -> None:
        """Add a shard; if the folder cannot be written, that is reported and the run goes on without the cache."""
        if not rows:
            return
        merged = LogProbs.cat([row.logps for row in rows])
        keys = np.frombuffer(b"".join(key for row in rows for key in row.keys), dtype=np.uint8)
        tensors = {
            "keys": torch.from_numpy(keys.reshape(-1, _KEY_SIZE).copy()),
            "counts": torch.tensor([count for row in rows for count in row.counts], dtype=torch.int64),
            "lengths": merged.lengths,
            "values": merged.tokens().float(),
        }
        checksum = _checksum(tensors)
        target = self.folder / weights / f"{checksum[:32]}.safetensors"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_whole(target, save(tensors, metadata={"checksum": checksum}))
        except (OSError, DiskError) as error:
            logger.warning(
                "%s: cannot keep reference log-probabilities (%s); they will be computed again", target, error
            )


def _read_shard(path: Path) -> Scored:
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in ("keys", "counts", "lengths", "values")}
        if (file.metadata() or {}).get("checksum") != _checksum(tensors):
            raise ValueError("its checksum is wrong")
    keys = tensors["keys"].numpy().tobytes()
    return Scored(
        [keys[at : at + _KEY_SIZE] for at in range(0, len(keys), _KEY_SIZE)],
        LogProbs(values=tensors["values"], lengths=tensors["lengths"]),
        tensors["counts"].tolist(),
    )


def _checksum(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tuple(tensors[name].shape)}\n".encode())
        digest.update(tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()
