"""Operations and bytes of a training step, computed from counts of weights, tokens and attention pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from exptilt.data.groups import Group
from exptilt.losses import Loss
from exptilt.planning.model_size import Kept, ModelSize
from exptilt.policies.engine.head import CHUNK_ELEMENTS
from exptilt.runs.run_models import Setup

_CONTEXT = 1.0e9
"""Bytes a GPU holds for its driver and libraries before anything is loaded; assumed."""
_FOUR_BITS = 0.52
"""Bytes of a weight in nf4 with doubly quantised scales."""
_SPARE = 3
"""Tensors as wide as a block's widest that backward holds at once beside what was kept."""


@dataclass(frozen=True)
class Load:
    """The work of a batch: groups, tokens, scored tokens and attention pairs."""

    groups: float
    tokens: float
    """Fed to the blocks: each prompt once, each completion without its last token."""
    counted: float
    """Tokens whose probability is needed."""
    pairs: float
    """(query, key) pairs of attention."""

    @classmethod
    def of(cls, groups: Sequence[Group]) -> Load:
        """Count groups.

        Example:
            >>> import numpy as np
            >>> from exptilt.data.groups import Completion
            >>> side = Completion(np.zeros(3, np.int32), np.ones(3, np.bool_))
            >>> Load.of([Group(id="a", prompt=np.zeros(4, np.int32), completions=(side, side))])
            Load(groups=1, tokens=8, counted=6, pairs=32)
        """
        tokens = counted = pairs = 0
        for group in groups:
            prompt, fed = len(group.prompt), [len(side.ids) - 1 for side in group.following]
            tokens += prompt + sum(fed)
            counted += sum(side.length for side in group.completions)
            pairs += prompt * (prompt + 1) // 2 + sum(n * prompt + n * (n + 1) // 2 for n in fed)
        return cls(groups=len(groups), tokens=tokens, counted=counted, pairs=pairs)

    def __add__(self, other: Load) -> Load:
        """The sum of two loads."""
        return Load(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    def times(self, factor: float) -> Load:
        """The load scaled by a factor."""
        scaled = {name: value * factor for name, value in vars(self).items()}
        return Load(**scaled)


@dataclass(frozen=True, kw_only=True)
class Manner:
    """Features of a step that change its cost."""

    checkpointing: bool = False
    coupled: bool = False
    """The loss couples rows: everything is scored once more, without a graph."""
    live_reference: bool = False
    """The reference is run in every step."""

    @classmethod
    def of(cls, setup: Setup, loss: Loss) -> Manner:
        """The features of a run with this setup and objective."""
        return cls(
            checkpointing=setup.checkpointing,
            coupled=loss.couples_batch,
            live_reference=setup.needs_distributions or setup.moves,
        )

    @property
    def extra_forwards(self) -> int:
        """Number of whole forward passes without a graph."""
        return int(self.coupled) + int(self.live_reference)


def forward_flops(size: ModelSize, load: Load) -> float:
    """Operations of a forward pass: two per weight and token, four per attention pair, head and layer."""
    blocks = 2 * (size.body + size.adapter) * load.tokens + 4 * size.layers * size.attention * load.pairs
    return blocks + 2 * size.head * load.counted


def step_flops(size: ModelSize, load: Load, manner: Manner) -> float:
    """Operations of forward and backward; a frozen weight passes the gradient on and has none of its own.

    Attention's backward forms the scores again: ten operations for each pair.
    """
    back = 2 * (size.body + size.adapter) * load.tokens + 10 * size.layers * size.attention * load.pairs
    back += 2 * ((size.body if size.body_trained else 0) + size.adapter) * load.tokens
    back += (4 if size.head_trained else 2) * size.head * load.counted
    forward = forward_flops(size, load)
    again = forward - 2 * size.head * load.counted if manner.checkpointing else 0.0
    return (1 + manner.extra_forwards) * forward + back + again


@dataclass(frozen=True, kw_only=True)
class Storage:
    """Storage of weights on each device."""

    weights: torch.dtype
    products: torch.dtype
    four_bits: bool = False
    optimizer_copies: int = 2
    """Numbers the optimizer keeps for each trained weight."""
    shards: int = 1
    """Devices that share one copy (fsdp), or 1."""
    offload: bool = False
    """Shards wait in main memory."""
    reference: bool = False
    """A second model is held."""
    gpu: bool = True


def memory_parts(
    size: ModelSize, kept: Kept, storage: Storage, *, tokens: float, micro_batches: float, checkpointing: bool
) -> dict[str, float]:
    """Bytes on each device at the peak of a step, by purpose.

    With several micro-batches a step, activations lie beside a whole gradient. With one, the gradient grows while
    activations go: the larger of the two counts.
    """
    wide = storage.weights.itemsize
    trained, frozen = size.trained, size.total - size.trained
    each = _FOUR_BITS if storage.four_bits else wide
    kind = 4 if size.adapter else wide
    held = 0 if storage.offload else 1 / storage.shards
    parts = {
        "weights": held * (frozen * each + trained * kind),
        "gradients": held * trained * kind,
        "optimizer": held * trained * kind * storage.optimizer_copies,
        "reference model": held * (size.total - size.adapter) * each if storage.reference else 0.0,
        "gathered weights": _gathered(size, storage) if storage.shards > 1 else 0.0,
        "activations": _activations(size, kept, storage, tokens, checkpointing),
        "logits": 4.0 * 4 * max(CHUNK_ELEMENTS, size.vocabulary) + 8.0 * tokens * size.width,
        "driver and libraries": _CONTEXT if storage.gpu else 0.0,
    }
    if micro_batches <= 1:
        # The head's gradient is there when activations are whole, the blocks' when they are gone.
        early = min(parts["gradients"], held * size.head * kind if size.head_trained else 0.0)
        if parts["activations"] + early >= parts["gradients"]:
            parts["gradients"] = early
        else:
            parts["activations"] = 0.0
    return parts


def _gathered(size: ModelSize, storage: Storage) -> float:
    """Bytes gathered under full sharding: two whole blocks, one block's gradient, and all weights outside blocks."""
    block = size.body / size.layers
    rest = size.total - size.body - size.adapter
    return storage.products.itemsize * (2 * block + rest) + 4 * (block if size.body_trained else 0)


def _activations(size: ModelSize, kept: Kept, storage: Storage, tokens: float, checkpointing: bool) -> float:
    stream = storage.weights.itemsize if size.body_trained else storage.products.itemsize
    # Between a block's kept tensors backward makes new ones; the widest is about a sixth of what a block keeps.
    spare = tokens * _SPARE * kept.block / 6
    # Gathered shards come in the products' precision, so that no copy is made.
    fixed = kept.fixed if storage.shards == 1 else 0.0
    if not checkpointing:
        return fixed + kept.of(tokens, size.layers) - kept.fixed + spare
    return fixed + tokens * (kept.base + kept.block + size.layers * stream * size.width) + spare
