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
from dataclasses import dataclass
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
from exptilt.policies.forward import causal_lm, evaluating
from exptilt.policies.inside import precision_of
from exptilt.policies.scoring import batches, score, split
from exptilt.policies.world import World
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
    cache: ReferenceCache | None,
    model: Any,
    groups: Sequence[Group],
    *,
    max_tokens: int = 8192,
    progress: str = "",
    weights: str = "",
    world: World | None = None,
) -> list[LogProbs]:
    """Log-probabilities of each group under the reference: from the cache where it has them, else computed and added.

    Of what the cache has, four examples are scored again and compared.

    Args:
        cache: where to look and keep; None computes everything.
        model: the reference, still with the weights the policy starts from.
        groups: any number.
        max_tokens: unique tokens scored at once.
        progress: what a progress bar is called; empty for none.
        weights: fingerprint of the model; default, it is taken here (sharded weights cannot be).
        world: the processes that hold the model; each scores a share, and all get everything.

    Returns:
        One `LogProbs` per group, in order, float32, on the CPU, without gradients.

    Raises:
        ModelError: if a cached example does not match what the model gives now.
    """
    world = world or World.alone()
    keys = [_key(group) for group in groups]
    unique = dict(zip(keys, groups, strict=True))
    name = f"{(weights or fingerprint(model))[:32]}-{_precision(model)}" if cache is not None else ""
    known = world.first(cache.read(name) if cache is not None and world.is_first else {})
    hits = {key: group for key, group in unique.items() if key in known}
    if cache is not None and hits:
        _verify(cache, model, hits, known)
    missing = [key for key in unique if key not in known]
    planned = cache.plan(name, list(unique), known) if cache is not None and world.is_first else missing
    work = _Scoring(cache if world.is_first else None, name, known, world)
    work.run(model, {key: unique[key] for key in world.first(planned)}, max_tokens, progress)
    if cache is not None and world.is_first:
        cache.forget_plan(name, list(unique))
    return [known[key] for key in keys]


@dataclass
class _Scoring:
    """Rows scored batch by batch, as many at once as there are processes, and kept as they come."""

    cache: ReferenceCache | None
    weights: str
    known: dict[str, LogProbs]
    world: World

    def run(self, model: Any, rows: dict[str, Group], max_tokens: int, progress: str) -> None:
        """Fill `known`; batches are cut from all rows, whether known or not, so that neighbours never change."""
        names, groups = list(rows), list(rows.values())
        wanted = [batch for batch in batches(groups, max_tokens) if any(names[at] not in self.known for at in batch)]
        fresh: dict[str, LogProbs] = {}
        saved = time.monotonic()
        hidden = True if not progress or not self.world.is_first else None
        with tqdm(total=len(wanted), desc=progress, unit="batch", delay=2, disable=hidden) as bar:
            for begin in range(0, len(wanted), self.world.size):
                some = wanted[begin : begin + self.world.size]
                mine = some[self.world.rank] if self.world.rank < len(some) else []
                scored = _score(model, [groups[at] for at in mine])
                for batch, found in zip(some, self.world.gather(scored), strict=False):
                    fresh |= {names[at]: logps for at, logps in zip(batch, found, strict=True)}
                bar.update(len(some))
                if self.cache is not None and time.monotonic() - saved >= self.cache.save_every:
                    self._keep(fresh)
                    fresh, saved = {}, time.monotonic()
        self._keep(fresh)

    def _keep(self, fresh: dict[str, LogProbs]) -> None:
        new = {name: logps for name, logps in fresh.items() if name not in self.known}
        if self.cache is not None:
            self.cache.write(self.weights, new)
        self.known.update(new)


def _score(model: Any, groups: Sequence[Group]) -> list[LogProbs]:
    """One batch; without groups a forward pass all the same, in step with other processes."""
    with evaluating(model), torch.no_grad():
        return split(score(model, groups).to("cpu"), [len(group.completions) for group in groups])


def _verify(cache: ReferenceCache, model: Any, hits: dict[str, Group], known: dict[str, LogProbs]) -> None:
    """Score a few cached examples again, spread evenly over the keys."""
    keys = sorted(hits)[:: max(1, len(hits) // _NUM_VERIFIED)][:_NUM_VERIFIED]
    tolerance = _TOLERANCE if "float16" not in _precision(model) else _HALF_TOLERANCE
    for key, now in zip(keys, _score(model, [hits[key] for key in keys]), strict=True):
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
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else precision_of(model)
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
