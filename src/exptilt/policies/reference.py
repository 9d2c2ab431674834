"""The reference's log-probabilities: computed once by given weights, kept on disk by content.

    <folder>/<weights and precision>/<content>.safetensors

An example's key is a hash of its token ids and of which of them count, so learning rate, seed, order, output folder and
other rows of a data set change nothing. Shards are only ever added, each under its final name in one rename: a killed
run loses the last minute, and several runs may share a folder.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from exptilt.data.groups import Group
from exptilt.errors import ModelError
from exptilt.policies.fingerprint import fingerprint
from exptilt.policies.forward import causal_lm
from exptilt.policies.scoring import batches, score_all, split
from exptilt.types import LogProbs

logger = logging.getLogger(__name__)

_NUM_VERIFIED = 4
_TOLERANCE = 1e-3
_HALF_TOLERANCE = 0.25
"""Nats per token by which packing and batching may move a half-precision model's log-probabilities."""


class ReferenceCache:
    """Log-probabilities of examples under given weights, in shards on disk."""

    def __init__(self, folder: str | Path | None = None, *, save_every: float = 60.0) -> None:
        """Choose a folder; nothing is read or written yet.

        Args:
            folder: default `EXPTILT_CACHE`/reference if that variable is set, else ~/.cache/exptilt/reference.
            save_every: seconds of work a killed run may lose.
        """
        root = Path(os.environ.get("EXPTILT_CACHE") or Path.home() / ".cache" / "exptilt") / "reference"
        self.folder = Path(folder) if folder is not None else root
        self.save_every = save_every

    def read(self, weights: str) -> dict[str, LogProbs]:
        """All examples scored by these weights, by key; a damaged shard is reported, removed and left out."""
        found: dict[str, LogProbs] = {}
        for path in sorted((self.folder / weights).glob("*.safetensors")):
            try:
                found.update(_read_shard(path))
            except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
                logger.warning("%s: damaged reference shard (%s); removed, its rows are scored again", path, error)
                path.unlink(missing_ok=True)
        return found

    def plan(self, weights: str, keys: list[str], known: Collection[str]) -> list[str]:
        """Which of `keys` to score in this pass; the same list when a killed pass is resumed.

        Batches are cut from this list. Cut from what is still missing, a row would have other neighbours after a
        resume, and with them other last bits than in a pass that was never stopped.
        """
        path = self._plan_path(weights, keys)
        try:
            return path.read_text().split()
        except OSError:
            missing = [key for key in keys if key not in known]
        if missing:
            with suppress(OSError):  # without it only the last bits of a resumed pass may differ
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary = path.with_suffix(f".{os.getpid()}")
                temporary.write_text("\n".join(missing))
                temporary.replace(path)
        return missing

    def forget_plan(self, weights: str, keys: list[str]) -> None:
        """The pass is complete."""
        with suppress(OSError):
            self._plan_path(weights, keys).unlink(missing_ok=True)

    def _plan_path(self, weights: str, keys: list[str]) -> Path:
        return self.folder / weights / f"{hashlib.sha256(''.join(keys).encode()).hexdigest()[:32]}.plan"

    def write(self, weights: str, entries: dict[str, LogProbs]) -> None:
        """Add a shard. A folder that cannot be written costs only the cache: it is reported and the run goes on."""
        if not entries:
            return
        merged = LogProbs.cat(list(entries.values()))
        tensors = {
            "keys": torch.tensor([list(bytes.fromhex(key)) for key in entries], dtype=torch.uint8),
            "counts": torch.tensor([len(entry) for entry in entries.values()], dtype=torch.int64),
            "lengths": merged.lengths,
            "values": merged.tokens().float(),
        }
        checksum = _checksum(tensors)
        target = self.folder / weights / f"{checksum[:32]}.safetensors"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".", delete=False) as file:
                file.write(save(tensors, metadata={"checksum": checksum}))
                file.flush()
                os.fsync(file.fileno())
            Path(file.name).replace(target)
        except OSError as error:
            logger.warning(
                "%s: cannot keep reference log-probabilities (%s); they will be computed again", target, error
            )


def reference_logps(
    cache: ReferenceCache | None, model: Any, groups: Sequence[Group], *, max_tokens: int = 8192, progress: str = ""
) -> list[LogProbs]:
    """Log-probabilities of each group under the reference: from the cache where it has them, else computed and added.

    Of what the cache has, four examples are scored again and compared.

    Args:
        cache: where to look and keep; None computes everything.
        model: the reference, still with the weights the policy starts from.
        groups: any number.
        max_tokens: unique tokens scored at once.
        progress: what a progress bar is called; empty for none.

    Returns:
        One `LogProbs` per group, in order, float32, on the CPU, without gradients.

    Raises:
        ModelError: if a cached example does not match what the model gives now.
    """
    if cache is None:
        return score_all(model, groups, max_tokens=max_tokens, progress=progress)
    weights = f"{fingerprint(model)[:32]}-{_precision(model)}"
    keys = [_key(group) for group in groups]
    known = cache.read(weights)
    hits = {key: group for key, group in zip(keys, groups, strict=True) if key in known}
    if hits:
        _verify(cache, model, hits, known)
    unique = dict(zip(keys, groups, strict=True))
    fresh: dict[str, LogProbs] = {}
    saved = time.monotonic()
    names = cache.plan(weights, list(unique), known)
    rows = [unique[name] for name in names]
    with tqdm(total=len(rows), desc=progress, unit="row", delay=2, disable=None if progress else True) as bar:
        for batch in batches(rows, max_tokens):
            bar.update(len(batch))
            if all(names[index] in known for index in batch):
                continue
            scored = score_all(model, [rows[index] for index in batch], max_tokens=max_tokens)
            found = zip([names[index] for index in batch], scored, strict=True)
            fresh.update({name: logps for name, logps in found if name not in known})
            if time.monotonic() - saved >= cache.save_every:
                cache.write(weights, fresh)
                known.update(fresh)
                fresh, saved = {}, time.monotonic()
    cache.write(weights, fresh)
    cache.forget_plan(weights, list(unique))
    known.update(fresh)
    return [known[key] for key in keys]


def _verify(cache: ReferenceCache, model: Any, hits: dict[str, Group], known: dict[str, LogProbs]) -> None:
    """Score a few cached examples again, spread evenly over the keys."""
    keys = sorted(hits)[:: max(1, len(hits) // _NUM_VERIFIED)][:_NUM_VERIFIED]
    tolerance = _TOLERANCE if "float16" not in _precision(model) else _HALF_TOLERANCE
    for key, now in zip(keys, score_all(model, [hits[key] for key in keys]), strict=True):
        error = float((now.tokens() - known[key].tokens()).abs().max()) if now.tokens().numel() else 0.0
        if not error <= tolerance:
            raise ModelError(
                f"row {hits[key].id}: reference log-probabilities cached in {cache.folder} differ by {error:.3g} nats "
                "from what the model gives now; delete that folder, or point EXPTILT_CACHE to another"
            )


def _precision(model: Any) -> str:
    """What the model computes in, as part of a folder's name."""
    inner = causal_lm(model)
    kind = inner.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else inner.dtype
    return str(dtype).removeprefix("torch.")


def _key(group: Group) -> str:
    digest = hashlib.sha256()
    for ids, counted in [(group.prompt, None), *((one.ids, one.counted) for one in group.completions)]:
        digest.update(len(ids).to_bytes(8, "little"))
        digest.update(np.ascontiguousarray(ids, dtype="<i4").tobytes())
        digest.update(b"" if counted is None else np.ascontiguousarray(counted, dtype=np.bool_).tobytes())
    return digest.hexdigest()


def _read_shard(path: Path) -> dict[str, LogProbs]:
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in ("keys", "counts", "lengths", "values")}
        if (file.metadata() or {}).get("checksum") != _checksum(tensors):
            raise ValueError("its checksum is wrong")
    merged = LogProbs(values=tensors["values"], lengths=tensors["lengths"])
    parts = split(merged, tensors["counts"].tolist())
    return {bytes(key.tolist()).hex(): part for key, part in zip(tensors["keys"], parts, strict=True)}


def _checksum(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tuple(tensors[name].shape)}\n".encode())
        digest.update(tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()
