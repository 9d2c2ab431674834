"""Packed attention with public operations: like-sized sequences padded into blocks, one call to torch each.

Two kinds of block, whichever does less work for a completion:

    square       keys = queries = prompt + completion, plainly causal, no mask. The prompt's queries are computed again
                 (and thrown away) for every completion but the first; only attention repeats, the model's matrix
                 products do not.
    rectangular  keys = prompt + completion, queries = completion, with a small mask; for completions shorter than
                 their prompt.

Sequences in a block are padded on the right, where a causal query never looks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from exptilt.policies.spans import Span


class Asked(NamedTuple):
    """What a layer asks of attention."""

    scaling: float
    window: int | None = None
    """How many positions back a query sees, itself included."""
    softcap: float | None = None
    sinks: Tensor | None = None
    """(H,) logits that take part in the softmax and carry no value."""
    dropout: float = 0.0

    @property
    def special(self) -> bool:
        """Whether it goes beyond what fused kernels of torch do."""
        return self.softcap is not None or self.sinks is not None


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
class Blocks:
    """The blocks of one packed row."""

    blocks: tuple[Block, ...]
    order: Tensor
    """(T,) for each token of the row, its place among all blocks' outputs."""
    masks: dict[tuple[int, int | None], Tensor | None] = field(default_factory=dict)
    """Masks by block and window: every layer uses the same few."""

    @classmethod
    def of(cls, spans: Sequence[Span], num_tokens: int, device: torch.device | None = None) -> Blocks:
        """Cut a packed row; padding is at most a quarter of a sequence's padded length and 8 places."""
        order = np.zeros(num_tokens, dtype=np.int64)
        blocks, base = [], 0
        for rows in _buckets(spans):
            block, places, valid = _block(np.array(rows, dtype=np.int64), _square(rows[0]), num_tokens, device)
            order[places[valid]] = base + np.flatnonzero(valid)
            blocks.append(block)
            base += places.size
        return cls(blocks=tuple(blocks), order=torch.from_numpy(order).to(device))

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


def attend_in_blocks(query: Tensor, key: Tensor, value: Tensor, blocks: Blocks, asked: Asked) -> Tensor:
    """(1, H, T, d), (1, H_kv, T, d), (1, H_kv, T, d'), to (1, T, H, d')."""
    q, k, v = (tensor.squeeze(0).transpose(0, 1) for tensor in (query, key, value))
    outputs = []
    for number, block in enumerate(blocks.blocks):
        mask = blocks.mask(number, asked.window, always=asked.special)
        attend = written_out if asked.special else _fast
        output = attend(_pick(q, block.queries), _pick(k, block.keys), _pick(v, block.keys), mask, asked)
        outputs.append(output.transpose(1, 2).flatten(0, 1))
    merged = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return merged.index_select(0, blocks.order).unsqueeze(0)


def _square(span: Span) -> bool:
    """Whether a square causal block is the cheaper one: half of total^2 against length * total."""
    return span.first or span.length >= span.prompt_length


def _buckets(spans: Sequence[Span]) -> list[list[Span]]:
    """Sequences of one kind and of like size together."""
    buckets: list[list[Span]] = []
    for span in sorted(spans, key=lambda span: (_square(span), span.total, span.length), reverse=True):
        head = buckets[-1][0] if buckets else None
        if head is not None and _square(head) == _square(span) and _alike(head, span):
            buckets[-1].append(span)
            continue
        buckets.append([span])
    return buckets


def _alike(one: Span, other: Span) -> bool:
    """Whether padding the shorter to the longer wastes little; queries count only where they are fewer than keys."""
    sizes = [(one.total, other.total)] if _square(one) else [(one.total, other.total), (one.length, other.length)]
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


def _pick(row: Tensor, index: Tensor) -> Tensor:
    """(T, H, d) at (R, L) places as (R, H, L, d)."""
    return row.index_select(0, index.flatten()).view(*index.shape, *row.shape[1:]).transpose(1, 2)


def _fast(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, asked: Asked) -> Tensor:
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None,
        dropout_p=asked.dropout,
        scale=asked.scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def written_out(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, asked: Asked) -> Tensor:
    """The formula itself, for what fused kernels leave out: soft caps and attention sinks. No mask means causal."""
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    scores = query @ key.transpose(-1, -2) * asked.scaling
    if asked.softcap is not None:
        scores = torch.tanh(scores / asked.softcap) * asked.softcap
    if mask is None:
        shape = scores.shape[-2:]
        mask = torch.ones(shape, dtype=torch.bool, device=scores.device).tril(shape[1] - shape[0])
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min) if mask.dtype == torch.bool else scores + mask
    if asked.sinks is not None:
        column = asked.sinks.reshape(1, -1, 1, 1).expand(scores.shape[0], -1, scores.shape[2], 1)
        scores = torch.cat([scores, column.to(scores.dtype)], dim=-1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, p=asked.dropout)
    return weights[..., : key.shape[2]] @ value
