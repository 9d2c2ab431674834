"""Exact attention over a packed row: each completion sees its prompt and itself, and nothing else.

The row is cut into blocks of like-sized sequences, and each block is one call to `scaled_dot_product_attention`, so
that many short sequences cost few calls. Two kinds of block, whichever does less work for a completion:

    square       keys = queries = prompt + completion, plainly causal, no mask. The prompt's queries are computed again
                 (and thrown away) for every completion but the first; only attention repeats, the model's matrix
                 products do not.
    rectangular  keys = prompt + completion, queries = completion, with a small mask; for completions shorter than
                 their prompt.

Sequences in a block are padded on the right, where a causal query never looks. Importing this module registers `NAME`
with transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from exptilt.errors import ModelError

NAME = "exptilt_segments"
"""The attention implementation's name in transformers."""


class Span(NamedTuple):
    """Where one completion and its prompt lie in the packed row."""

    prompt: int
    prompt_length: int
    start: int
    length: int
    first: bool
    """True for the completion that also computes its prompt's queries (exactly one per prompt)."""

    @property
    def total(self) -> int:
        """Number of keys the last token sees."""
        return self.prompt_length + self.length

    @property
    def square(self) -> bool:
        """Whether a square causal block is the cheaper one: half of total^2 against length * total."""
        return self.first or self.length >= self.prompt_length


@dataclass(frozen=True, eq=False)
class Block:
    """R sequences of like length that share one call to attention."""

    queries: Tensor
    """(R, Q) places in the packed row."""
    keys: Tensor
    """(R, K) places in the packed row; the same tensor as `queries` in a square block."""
    offsets: Tensor
    """(R,) position of each sequence's first query: 0 in a square block, the prompt's length in a rectangular one."""

    @property
    def square(self) -> bool:
        """Whether plain causal attention is right without a mask."""
        return self.queries is self.keys

    def visible(self, window: int | None) -> Tensor:
        """(R or 1, 1, Q, K) True where a query sees a key; `window` counts positions back, itself included."""
        device = self.keys.device
        offsets = self.offsets[:1] if self.square else self.offsets
        positions = offsets[:, None] + torch.arange(self.queries.shape[1], device=device)
        behind = positions[:, :, None] - torch.arange(self.keys.shape[1], device=device)
        seen = behind >= 0 if window is None else (behind >= 0) & (behind < window)
        return seen[:, None]


@dataclass(frozen=True, eq=False)
class Segments:
    """The blocks of one packed row; travels through the model's forward as the keyword `segments`."""

    blocks: tuple[Block, ...]
    order: Tensor
    """(T,) for each token of the row, its place among all blocks' outputs."""
    windows: set[int | None] = field(default_factory=set)
    """The sliding windows the layers asked for, collected as they run."""
    masks: dict[tuple[int, int | None], Tensor | None] = field(default_factory=dict)
    """Masks by block and window: every layer uses the same few."""

    def mask(self, number: int, window: int | None, always: bool) -> Tensor | None:
        """The mask of block `number`, or None where plain causal attention is the same thing and `always` is False."""
        block = self.blocks[number]
        if window is not None and window >= block.keys.shape[1]:
            window = None
        if block.square and window is None and not always:
            return None
        if (number, window) not in self.masks:
            self.masks[number, window] = block.visible(window)
        return self.masks[number, window]


def segments_of(spans: Sequence[Span], num_tokens: int, device: torch.device | None = None) -> Segments:
    """Cut a packed row into blocks; padding is at most a quarter of a sequence's padded length and 8 places."""
    order = np.empty(num_tokens, dtype=np.int64)
    blocks, base = [], 0
    for rows in _buckets(spans):
        block, places, valid = _block(np.array(rows, dtype=np.int64), rows[0].square, num_tokens, device)
        order[places[valid]] = base + np.flatnonzero(valid)
        blocks.append(block)
        base += places.size
    return Segments(blocks=tuple(blocks), order=torch.from_numpy(order).to(device))


def _buckets(spans: Sequence[Span]) -> list[list[Span]]:
    """Sequences of one kind and of like size together."""
    buckets: list[list[Span]] = []
    for span in sorted(spans, key=lambda span: (span.square, span.total, span.length), reverse=True):
        head = buckets[-1][0] if buckets else None
        if head is not None and head.square == span.square and _alike(head, span):
            buckets[-1].append(span)
            continue
        buckets.append([span])
    return buckets


def _alike(one: Span, other: Span) -> bool:
    """Whether padding the shorter to the longer wastes little; queries count only where they are fewer than keys."""
    sizes = [(one.total, other.total)] if one.square else [(one.total, other.total), (one.length, other.length)]
    return all(min(pair) >= 0.75 * max(pair) - 8 for pair in sizes)


def _block(
    rows: NDArray[np.int64], square: bool, num_tokens: int, device: torch.device | None
) -> tuple[Block, NDArray[np.int64], NDArray[np.bool_]]:
    """One block; where its queries lie in the row (R, Q); and which of them hold the result of their token."""
    prompt, prompt_length, start, length, first = (column[:, None] for column in rows.T)
    column = np.arange(int((prompt_length + length).max()))
    keys = np.where(column < prompt_length, prompt + column, start + column - prompt_length)
    # Places past a sequence's end may hold any token: only padded queries see them, and no one reads those.
    keys = np.minimum(keys, num_tokens - 1)
    key_index = torch.from_numpy(keys).to(device)
    if square:
        valid = (column >= np.where(first == 1, 0, prompt_length)) & (column < prompt_length + length)
        return Block(key_index, key_index, torch.zeros(len(rows), dtype=torch.int64, device=device)), keys, valid
    column = np.arange(int(length.max()))
    queries = np.minimum(start + column, num_tokens - 1)
    block = Block(torch.from_numpy(queries).to(device), key_index, torch.from_numpy(rows[:, 1].copy()).to(device))
    return block, queries, np.broadcast_to(column < length, queries.shape)


def segments_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    segments: Segments | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention for transformers' interface: packed where `segments` is given, else what `sdpa` does.

    Args:
        module: the attention layer.
        query: (1, H, T, d).
        key: (1, H_kv, T, d), grouped heads not yet repeated.
        value: (1, H_kv, T, d').
        attention_mask: used only without `segments` (generation, plain batches).
        segments: how the packed row is cut.
        options: `scaling`, `dropout`, `sliding_window`, `softcap`, `s_aux` (attention sinks) as layers pass them.

    Returns:
        (1, T, H, d') and None in place of attention weights.

    Raises:
        ModelError: if the layer adds a position bias, which a packed row cannot carry.
    """
    special = options.get("softcap") is not None or options.get("s_aux") is not None
    if segments is None:
        if special:
            return _written_out(query, key, value, attention_mask, options).transpose(1, 2).contiguous(), None
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return output, None
    if options.get("position_bias") is not None:
        raise ModelError(f"{type(module).__name__} adds a position bias to attention, which packed rows do not support")
    window = options.get("sliding_window")
    segments.windows.add(window)
    q, k, v = (tensor.squeeze(0).transpose(0, 1) for tensor in (query, key, value))
    outputs = []
    for number, block in enumerate(segments.blocks):
        mask = segments.mask(number, window, always=special)
        attend = _written_out if special else _fast
        output = attend(_pick(q, block.queries), _pick(k, block.keys), _pick(v, block.keys), mask, options)
        outputs.append(output.transpose(1, 2).flatten(0, 1))
    merged = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return merged.index_select(0, segments.order).unsqueeze(0), None


def _pick(row: Tensor, index: Tensor) -> Tensor:
    """(T, H, d) at (R, L) places as (R, H, L, d)."""
    return row.index_select(0, index.flatten()).view(*index.shape, *row.shape[1:]).transpose(1, 2)


def _fast(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: dict[str, Any]) -> Tensor:
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None,
        dropout_p=options.get("dropout", 0.0),
        scale=options.get("scaling"),
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _written_out(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: dict[str, Any]) -> Tensor:
    """The formula itself, for what fused kernels leave out: soft caps and attention sinks. No mask means causal."""
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    scaling = options.get("scaling")
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    softcap, sinks = options.get("softcap"), options.get("s_aux")
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is None:
        shape = scores.shape[-2:]
        mask = torch.ones(shape, dtype=torch.bool, device=scores.device).tril(shape[1] - shape[0])
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min) if mask.dtype == torch.bool else scores + mask
    if sinks is not None:
        column = sinks.reshape(1, -1, 1, 1).expand(scores.shape[0], -1, scores.shape[2], 1)
        scores = torch.cat([scores, column.to(scores.dtype)], dim=-1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, p=options.get("dropout", 0.0))
    return weights[..., : key.shape[2]] @ value


AttentionInterface.register(NAME, segments_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
