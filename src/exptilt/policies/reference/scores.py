"""Log-probabilities of the reference: computed once by given weights, or taken from the cache."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from exptilt.data.batching import by_size
from exptilt.data.groups import Group
from exptilt.errors import ModelError
from exptilt.policies.engine.forward import causal_lm, evaluating
from exptilt.policies.engine.inside import precision_of
from exptilt.policies.fingerprint import fingerprint
from exptilt.policies.reference.kept_logps import KeptLogProbs, Key, Scored
from exptilt.policies.reference.reference_cache import ReferenceCache
from exptilt.policies.scoring import score
from exptilt.processes.world import World
from exptilt.progress import progress_bar
from exptilt.settings.data_settings import DEFAULT_TOKENS
from exptilt.types import LogProbs

_TOKEN = np.dtype("<i4")
_NUM_VERIFIED = 4
_TOLERANCE = 1e-3
_HALF_TOLERANCE = 0.25
"""Nats per token by which packing and batching may move a half-precision model's log-probabilities."""


def reference_logps(
    cache: ReferenceCache | None,
    model: Any,
    groups: Sequence[Group],
    *,
    max_tokens: int = DEFAULT_TOKENS,
    progress: str = "",
    weights: str = "",
    world: World | None = None,
) -> list[LogProbs]:
    """Log-probabilities of each group under the reference; the cache is read first and gets those that it lacks.

    Four of the cached examples are scored again and compared.

    Args:
        cache: the cache to read and fill; None computes everything.
        model: the reference, still with the weights the policy starts from.
        groups: any number.
        max_tokens: unique tokens scored at once.
        progress: name of the progress bar; empty for none.
        weights: fingerprint of the model; default, it is taken here (sharded weights cannot be).
        world: the processes that hold the model; each scores a share, and all get everything.

    Returns:
        One `LogProbs` per group, in order, float32, on the CPU, without gradients.

    Raises:
        ModelError: if a cached example does not match what the model gives now.
    """
    logps = score_reference(
        cache, model, groups, max_tokens=max_tokens, progress=progress, weights=weights, world=world
    )
    return [logps[key_of(group)] for group in groups]


def score_reference(
    cache: ReferenceCache | None,
    model: Any,
    groups: Sequence[Group],
    *,
    max_tokens: int = DEFAULT_TOKENS,
    progress: str = "",
    weights: str = "",
    world: World | None = None,
) -> KeptLogProbs:
    """Log-probabilities of any number of rows under the reference, stored by key (`key_of`); uses the cache.

    The rows are walked once for their keys and sizes and then taken batch by batch, so a mapped file stays on disk.
    """
    world = world or World.alone()
    rows = _Rows.of(groups)
    name = f"{(weights or fingerprint(model))[:32]}-{_precision(model)}" if cache is not None else ""
    known = world.first(cache.read(name) if cache is not None and world.is_first else KeptLogProbs())
    if cache is not None:
        _verify(cache, model, {key: index for key, index in rows.places.items() if key in known}, groups, known)
    keys = list(rows.places)
    missing = [key for key in keys if key not in known]
    planned = cache.plan(name, keys, known) if cache is not None and world.is_first else missing
    work = _Scoring(cache if world.is_first else None, name, known, world)
    work.run(model, rows.some(world.first(planned)), max_tokens, progress)
    if cache is not None and world.is_first:
        cache.forget_plan(name, keys)
    return known


@dataclass
class _Rows:
    """The distinct rows of a sequence."""

    groups: Sequence[Group]
    places: dict[Key, int]
    """Index of each row in the sequence, by key."""
    sizes: dict[Key, int]
    """Unique tokens of each."""

    @classmethod
    def of(cls, groups: Sequence[Group]) -> _Rows:
        rows = cls(groups, {}, {})
        for index, group in enumerate(groups):
            key = key_of(group)
            rows.places.setdefault(key, index)
            rows.sizes[key] = group.num_tokens
        return rows

    def some(self, keys: Sequence[Key]) -> _Rows:
        """The rows of these keys, which must be in the order of the rows."""
        if len(keys) == len(self.places):
            return self
        places, sizes = ({key: named[key] for key in keys} for named in (self.places, self.sizes))
        return _Rows(self.groups, places, sizes)


@dataclass
class _Scoring:
    """Scores rows batch by batch, one batch per process at a time, and stores the results as they come."""

    cache: ReferenceCache | None
    weights: str
    known: KeptLogProbs
    world: World

    def run(self, model: Any, rows: _Rows, max_tokens: int, progress: str) -> None:
        """Fill `known`; batches are cut from all rows, known or not, so that a row's neighbours never change."""
        keys = list(rows.places)
        cut = by_size(list(rows.sizes.values()), max_tokens)
        batches = [batch for batch in cut if any(keys[at] not in self.known for at in batch)]
        fresh: list[Scored] = []
        saved = time.monotonic()
        shown = bool(progress) and self.world.is_first
        with progress_bar(len(batches), doing=progress, unit="batch", shown=shown) as bar:
            for begin in range(0, len(batches), self.world.size):
                some = batches[begin : begin + self.world.size]
                mine = [keys[at] for at in some[self.world.rank]] if self.world.rank < len(some) else []
                fresh += self._new(self.world.gather(_scored(model, rows, mine)))
                bar.update(len(some))
                if self.cache is not None and time.monotonic() - saved >= self.cache.save_every:
                    self.cache.write(self.weights, fresh)
                    fresh, saved = [], time.monotonic()
        if self.cache is not None:
            self.cache.write(self.weights, fresh)

    def _new(self, results: Sequence[Scored | None]) -> list[Scored]:
        """Add results to `known`, and return the rows that were new."""
        new = [rows for each in results if each is not None and (rows := each.without(self.known)) is not None]
        for rows in new:
            self.known.add(*rows)
        return new if self.cache is not None else []


def _scored(model: Any, rows: _Rows, keys: list[Key]) -> Scored | None:
    groups = [rows.groups[rows.places[key]] for key in keys]
    parts = _score(model, groups)
    return Scored(keys, LogProbs.cat(parts), [len(group.completions) for group in groups]) if parts else None


def _score(model: Any, groups: Sequence[Group]) -> list[LogProbs]:
    """Score one batch; without groups it runs a forward pass all the same, in step with other processes."""
    with evaluating(model), torch.no_grad():
        return score(model, groups).to("cpu").split([len(group.completions) for group in groups])


def _verify(
    cache: ReferenceCache, model: Any, hits: Mapping[Key, int], groups: Sequence[Group], known: KeptLogProbs
) -> None:
    """Score a few cached examples again, spread evenly over the keys."""
    keys = sorted(hits)[:: max(1, len(hits) // _NUM_VERIFIED)][:_NUM_VERIFIED]
    tolerance = _TOLERANCE if "float16" not in _precision(model) else _HALF_TOLERANCE
    again = _score(model, [groups[hits[key]] for key in keys]) if keys else []
    for key, now in zip(keys, again, strict=True):
        error = float((now.tokens() - known[key].tokens()).abs().max()) if now.tokens().numel() else 0.0
        if not error <= tolerance:
            raise ModelError(
                f"row {groups[hits[key]].id}: reference log-probabilities cached in {cache.folder} differ by {error:.3g} "
                "nats from what the model gives now; delete that folder, or point EXPTILT_CACHE to another"
            )


def _precision(model: Any) -> str:
    """The dtype that the model computes in, as part of a folder's name."""
    inner = causal_lm(model)
    kind = inner.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else precision_of(model)
    return str(dtype).removeprefix("torch.")


def key_of(group: Group) -> Key:
    """SHA-256 of a row's token ids and of the mask of counted tokens."""
    parts: list[Any] = [len(group.prompt).to_bytes(8, "little"), np.ascontiguousarray(group.prompt, _TOKEN)]
    for completion in group.completions:
        ids, counted = np.ascontiguousarray(completion.ids, _TOKEN), np.ascontiguousarray(completion.counted, np.bool_)
        parts += (len(ids).to_bytes(8, "little"), ids, counted, b"prompt" if completion.repeats_prompt else b"")
    return hashlib.sha256(b"".join(parts)).digest()
