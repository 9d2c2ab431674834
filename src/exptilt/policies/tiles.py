"""Packed attention on the CPU: tile by tile over the row as it lies, nothing padded, scores never kept.

A stretch is a run of the row that is worked on together: a long sequence, or several short ones, whose mask then keeps
them apart, because many small products cost more than one that computes some scores in vain. Of each stretch a tile of
queries at a time takes its scores, softmax and values, and only keys up to the tile's last are touched. Backward forms
the tile's softmax again instead of keeping it, so memory grows with tokens, not with their square.

    p = softmax(scaling q k^T)    o = p v                           forward
    d = p * (do v^T - sum(do * o))                                  backward
    dq = scaling d k    dk = scaling d^T q    dv = p^T do
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exptilt.policies.product import multipliers
from exptilt.policies.spans import Span

_TILE = 192
"""Queries at a time: scores of a tile stay in the cache, and the half of the diagonal square nobody sees is small."""
_TOGETHER = 64
"""Tokens up to which short sequences are worked on together; at most a tile."""
_ELEMENTS = 16_000_000
"""Scores at a time, for long sequences of many heads."""
_LARGE = 40_000
"""Scores of one head from which a stretch is worth what oneDNN does anew for every shape; MKL takes smaller ones."""


@dataclass(frozen=True, eq=False)
class Stretch:
    """Places in the packed row."""

    begin: int
    end: int
    """Of the queries, and of the keys that go with them."""
    prompt: int
    lead: int
    """Where the keys that come before begin, and how many they are; 0 for a stretch that holds its prompts."""
    hidden: Tensor | None = None
    """(n, n) minus infinity where one of its queries does not see one of its keys, else 0; None for one sequence."""

    def multipliers(self, dtype: torch.dtype) -> AbstractContextManager[None]:
        """Who multiplies."""
        length = self.end - self.begin
        if length * (self.lead + length) < _LARGE:
            return multipliers("none")
        return multipliers("bf16" if dtype == torch.bfloat16 else None)

    def keys(self, row: Tensor, heads: int) -> Tensor:
        """(H_kv, T, d) to (H, lead + own, d): what its last query sees."""
        own = row[:, self.begin : self.end]
        seen = torch.cat([row[:, self.prompt : self.prompt + self.lead], own], dim=1) if self.lead else own
        # In one piece, or every product would make it so for itself.
        return seen.repeat_interleave(heads // len(row), dim=0) if heads > len(row) else seen.contiguous()

    def add_keys(self, row: Tensor, gradient: Tensor) -> None:
        """The way back of `keys`: add (H, k, d), of the first k keys, to a gradient of the row."""
        if len(gradient) > len(row):
            gradient = gradient.view(len(row), -1, *gradient.shape[1:]).sum(1)
        if self.lead:
            row[:, self.prompt : self.prompt + self.lead].add_(gradient[:, : self.lead])
            gradient = gradient[:, self.lead :]
        row[:, self.begin : self.begin + gradient.shape[1]].add_(gradient)

    def tiles(self, heads: int) -> Iterator[tuple[slice, int, Tensor]]:
        """Queries as places in the row, how many keys the last of them sees, and what hides the last of these."""
        length = self.end - self.begin
        most = max(16, min(_TILE, _ELEMENTS // (heads * (self.lead + length))))
        size = -(-length // -(-length // most))
        for begin in range(0, length, size):
            end = min(begin + size, length)
            hidden = _later(end - begin) if self.hidden is None else self.hidden[begin:end, :end]
            yield slice(self.begin + begin, self.begin + end), self.lead + end, hidden


def stretches_of(spans: Sequence[Span]) -> list[Stretch]:
    """Cut the row: neighbours together while they are short and their keys lie in one piece."""
    cuts: list[list[Span]] = []
    for span in spans:
        if cuts and _fits(cuts[-1], span):
            cuts[-1].append(span)
        elif span.first or span.length:
            cuts.append([span])
    return [_stretch(some) for some in cuts]


def _fits(some: Sequence[Span], span: Span) -> bool:
    """Whether a span can join its neighbours: it brings its prompt, or they have it."""
    begin, same = _begin(some[0]), span.prompt == some[0].prompt
    holds = span.prompt >= begin
    return span.end - begin <= _TOGETHER and (holds if some[0].first else same)


def _begin(span: Span) -> int:
    return span.prompt if span.first else span.start


def _stretch(some: Sequence[Span]) -> Stretch:
    first = some[0]
    begin, end, lead = _begin(first), some[-1].end, 0 if first.first else first.prompt_length
    if len(some) == 1:
        return Stretch(begin, end, first.prompt, lead)
    hidden = torch.full((end - begin, end - begin), float("-inf"))
    for span in some:
        own = slice(span.start - begin, span.end - begin)
        hidden[own, own] = _later(span.length)
        prompt = slice(span.prompt - begin, span.prompt - begin + span.prompt_length)
        if span.first:
            hidden[prompt, prompt] = _later(span.prompt_length)
        if prompt.start >= 0:
            hidden[own, prompt] = 0.0
    return Stretch(begin, end, first.prompt, lead, hidden)


def attend_in_tiles(query: Tensor, key: Tensor, value: Tensor, stretches: Sequence[Stretch], scaling: float) -> Tensor:
    """(1, H, T, d), (1, H_kv, T, d) twice, to (1, H, T, d), with a graph."""
    # Under autocast queries and keys come rotated in float32.
    rows = (tensor.squeeze(0).to(value.dtype) for tensor in (query, key, value))
    output: Tensor = _Tiles.apply(*rows, stretches, scaling)  # type: ignore[no-untyped-call]
    return output.unsqueeze(0)


class _Tiles(torch.autograd.Function):
    """In float32 also for bfloat16 rows: short stretches lose more to conversions than half precision gains."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, stretches: Sequence[Stretch], scaling: float
    ) -> Tensor:
        ctx.stretches, ctx.scaling = stretches, scaling
        wide_query, wide_key, wide_value = map(_wide, (query, key, value))
        output = torch.empty_like(wide_query)
        with torch.autocast("cpu", enabled=False):
            for stretch in stretches:
                with stretch.multipliers(query.dtype):
                    _forward(stretch, (wide_query, wide_key, wide_value, output), scaling)
        output = output.to(query.dtype)
        ctx.save_for_backward(query, key, value, output)
        return output

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output, up = map(_wide, (*ctx.saved_tensors, upstream))
        gradients = (torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value))
        common = (up * output).sum(-1, keepdim=True)
        with torch.autocast("cpu", enabled=False):
            for stretch in ctx.stretches:
                with stretch.multipliers(upstream.dtype):
                    _backward(stretch, (query, key, value, up, common), gradients, ctx.scaling)
        for gradient in gradients[:2]:
            gradient.mul_(ctx.scaling)
        return *(gradient.to(upstream.dtype) for gradient in gradients), None, None


def _forward(stretch: Stretch, rows: Sequence[Tensor], scaling: float) -> None:
    query, key, value, output = rows
    heads = len(query)
    keys, values = stretch.keys(key, heads), stretch.keys(value, heads)
    for place, seen, hidden in stretch.tiles(heads):
        p = _softmax(query[:, place], keys[:, :seen], hidden, scaling)
        output[:, place] = torch.bmm(p, values[:, :seen])


def _backward(stretch: Stretch, rows: Sequence[Tensor], gradients: Sequence[Tensor], scaling: float) -> None:
    query, key, value, up, common = rows
    to_query, to_key, to_value = gradients
    heads = len(query)
    keys, values = stretch.keys(key, heads), stretch.keys(value, heads)
    for place, seen, hidden in stretch.tiles(heads):
        own, above = query[:, place].contiguous(), up[:, place].contiguous()
        p = _softmax(own, keys[:, :seen], hidden, scaling)
        d = torch.bmm(above, values[:, :seen].transpose(1, 2)).sub_(common[:, place]).mul_(p)
        to_query[:, place] = torch.bmm(d, keys[:, :seen])
        stretch.add_keys(to_key, torch.bmm(d.transpose(1, 2), own))
        stretch.add_keys(to_value, torch.bmm(p.transpose(1, 2), above))


def _softmax(query: Tensor, keys: Tensor, hidden: Tensor, scaling: float) -> Tensor:
    """(H, n, k) in float32 or better, of (H, n, d) queries; `hidden` (n, j) is added to the last j keys' scores."""
    scores = keys.new_empty(*query.shape[:2], keys.shape[1])
    torch.baddbmm(scores, query, keys.transpose(1, 2), beta=0, alpha=scaling, out=scores)
    scores[:, :, -hidden.shape[1] :].add_(hidden)
    return torch.softmax(scores, -1, out=scores)


def _later(count: int) -> Tensor:
    """(n, n) minus infinity where a key comes after the query, else 0."""
    return torch.from_numpy(_above(count))


@lru_cache(maxsize=256)
def _above(count: int) -> NDArray[np.float32]:
    """Kept as an array: a tensor made while a model runs on fake tensors would be a fake for ever."""
    return np.triu(np.full((count, count), -np.inf, np.float32), 1)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.element_size() < 4 else tensor
