"""Packed attention on the CPU: tile by tile over the row as it lies, nothing padded, scores never kept.

A stretch is a prompt with its first completion, or a later completion, which sees its prompt before itself. Of each
stretch a tile of queries at a time takes its scores, softmax and values, and only keys that the tile sees are touched.
Backward forms the tile's softmax again instead of keeping it, so memory grows with tokens, not with their square.

    p = softmax(scaling q k^T)    o = p v                           forward
    d = p * (do v^T - sum(do * o))                                  backward
    dq = scaling d k    dk = scaling d^T q    dv = p^T do
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from exptilt.policies.product import bfloat16_multipliers
from exptilt.policies.spans import Span

_TILE = 192
"""Queries at a time: scores of a tile stay in the cache, and the half of the diagonal square nobody sees is small."""
_ELEMENTS = 16_000_000
"""Scores at a time, for long sequences of many heads."""
SHORT = 48
"""Tokens of a mean stretch below which so many small products cost more than padding sequences into blocks."""


class Stretch(NamedTuple):
    """Places in the packed row."""

    begin: int
    end: int
    """Of the queries, and of the keys that go with them."""
    prompt: int
    lead: int
    """Where the keys that come before begin, and how many they are; 0 for a stretch that holds its prompt."""

    @classmethod
    def of(cls, span: Span) -> Stretch:
        """The stretch that computes a span."""
        if span.first:
            return cls(span.prompt, span.end, span.prompt, 0)
        return cls(span.start, span.end, span.prompt, span.prompt_length)

    def keys(self, row: Tensor, heads: int) -> Tensor:
        """(H_kv, T, d) to (H, lead + own, d): what its last query sees."""
        own = row[:, self.begin : self.end]
        seen = torch.cat([row[:, self.prompt : self.prompt + self.lead], own], dim=1) if self.lead else own
        return seen.repeat_interleave(heads // len(row), dim=0) if heads > len(row) else seen

    def add_keys(self, row: Tensor, gradient: Tensor) -> None:
        """The way back of `keys`: add (H, k, d), of the first k keys, to a gradient of the row."""
        if len(gradient) > len(row):
            gradient = gradient.view(len(row), -1, *gradient.shape[1:]).sum(1)
        if self.lead:
            row[:, self.prompt : self.prompt + self.lead] += gradient[:, : self.lead]
        row[:, self.begin : self.begin + gradient.shape[1] - self.lead] += gradient[:, self.lead :]

    def tiles(self, heads: int) -> Iterator[tuple[slice, int]]:
        """Queries as places in the row, and how many keys the last of them sees."""
        length = self.end - self.begin
        most = max(16, min(_TILE, _ELEMENTS // (heads * (self.lead + length))))
        size = -(-length // -(-length // most))
        for begin in range(self.begin, self.end, size):
            end = min(begin + size, self.end)
            yield slice(begin, end), self.lead + end - self.begin


def worth_tiles(spans: Sequence[Span]) -> bool:
    """Whether stretches are long enough for products of their own."""
    stretches = [Stretch.of(span) for span in spans]
    return sum(one.end - one.begin for one in stretches) >= SHORT * len(stretches)


def attend_in_tiles(query: Tensor, key: Tensor, value: Tensor, spans: Sequence[Span], scaling: float) -> Tensor:
    """(1, H, T, d), (1, H_kv, T, d) twice, to (1, H, T, d), with a graph."""
    # Under autocast queries and keys come rotated in float32.
    rows = (tensor.squeeze(0).to(value.dtype) for tensor in (query, key, value))
    output: Tensor = _Tiles.apply(*rows, spans, scaling)  # type: ignore[no-untyped-call]
    return output.unsqueeze(0)


class _Tiles(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, spans: Sequence[Span], scaling: float) -> Tensor:
        ctx.spans, ctx.scaling, heads = spans, scaling, len(query)
        output = torch.empty_like(query)
        wide_query, wide_key = _wide(query), _wide(key)
        with torch.autocast("cpu", enabled=False), bfloat16_multipliers(query.dtype == torch.bfloat16):
            for stretch in map(Stretch.of, spans):
                keys, values = stretch.keys(wide_key, heads), stretch.keys(value, heads)
                for place, seen in stretch.tiles(heads):
                    p = _softmax(wide_query[:, place], keys[:, :seen], scaling)
                    output[:, place] = torch.bmm(p.to(values.dtype), values[:, :seen])
        ctx.save_for_backward(query, key, value, output)
        return output

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output = ctx.saved_tensors
        heads, dtype = len(query), query.dtype
        wide_query, wide_key, wide_value, wide_up = (_wide(row) for row in (query, key, value, upstream))
        to_query, to_key, to_value = torch.empty_like(query), torch.zeros_like(wide_key), torch.zeros_like(wide_value)
        common = (wide_up * output).sum(-1, keepdim=True)
        with torch.autocast("cpu", enabled=False), bfloat16_multipliers(dtype == torch.bfloat16):
            for stretch in map(Stretch.of, ctx.spans):
                keys, values, narrow = (stretch.keys(row, heads) for row in (wide_key, wide_value, key))
                for place, seen in stretch.tiles(heads):
                    p = _softmax(wide_query[:, place], keys[:, :seen], ctx.scaling)
                    d = torch.bmm(wide_up[:, place], values[:, :seen].transpose(1, 2))
                    d = d.sub_(common[:, place]).mul_(p).to(dtype)
                    to_query[:, place] = torch.bmm(d, narrow[:, :seen])
                    stretch.add_keys(to_key, torch.bmm(d.transpose(1, 2), query[:, place]))
                    stretch.add_keys(to_value, torch.bmm(p.to(dtype).transpose(1, 2), upstream[:, place]))
        return to_query.mul_(ctx.scaling), to_key.mul_(ctx.scaling).to(dtype), to_value.to(dtype), None, None


def _softmax(query: Tensor, keys: Tensor, scaling: float) -> Tensor:
    """(H, n, k) in float32 or better, of n queries the last of which sees all k keys."""
    count = query.shape[1]
    scores = keys.new_empty(len(query), count, keys.shape[1])
    torch.baddbmm(scores, query, keys.transpose(1, 2), beta=0, alpha=scaling, out=scores)
    scores[:, :, -count:] += _later(count, scores.dtype)
    return torch.softmax(scores, -1, out=scores)


@lru_cache(maxsize=256)
def _later(count: int, dtype: torch.dtype) -> Tensor:
    """(n, n) minus infinity where a key comes after the query, else 0."""
    return torch.full((count, count), float("-inf"), dtype=dtype).triu(1)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.element_size() < 4 else tensor
