"""Packed attention over the unpadded row, tile by tile; scores are never kept.

A stretch is a run of the row that is worked on together: a long sequence, or several short ones, whose mask then keeps
them apart, because many small products cost more than one that computes some scores in vain. The queries of a stretch are
worked on tile by tile (scores, softmax, values), and only keys that the tile sees are touched. Backward forms the
tile's softmax again instead of keeping it, so memory grows with tokens, not with their square.

    s = scaling q k^T    or  cap tanh(scaling q k^T / cap)
    p = softmax(s, sink)    o = (m p) v                             forward; m: what dropout keeps, over its share
    d = p (m do v^T - sum(do o))                                    backward; times 1 - (s / cap)^2 with a cap
    dq = scaling d k    dk = scaling d^T q    dv = (m p)^T do
    dsink = -sum over queries of (1 - sum p) sum(do o)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from exptilt.policies.engine.product import multipliers
from exptilt.policies.engine.spans import Asked, Span

_TILE = 192
"""Queries at a time: scores of a tile stay in the cache, and the half of the diagonal square nobody sees is small."""
_TOGETHER = 64
"""Tokens up to which short sequences are worked on together; at most a tile."""
_ELEMENTS = 16_000_000
"""Scores at a time, for long sequences of many heads."""
_LARGE = 40_000
"""Scores of one head from which a stretch is worth what oneDNN does anew for every shape; MKL takes smaller ones."""


class Tile(NamedTuple):
    """Some queries of a stretch, with the keys that they see."""

    place: slice
    """Positions of the queries in the row."""
    keys: slice
    """Positions among the stretch's keys, from the first key of the first query to the last key of the last query."""
    hidden: Tensor
    """(n, j) added to the last j keys' scores: minus infinity where a query does not see a key, else 0."""
    behind: int
    """So many queries see all of the first keys; of each later one another key has left the window. n without a window."""


@dataclass(frozen=True, eq=False)
class Stretch:
    """A run of the packed row that is worked on together."""

    begin: int
    end: int
    """Range of the queries, and of the keys at the same positions."""
    prompt: int
    lead: int
    """Begin and number of the prompt's keys before the stretch; 0 for a stretch that holds its prompts."""
    hidden: Tensor | None = None
    """(n, n) minus infinity where one of its queries does not see one of its keys, else 0; None for one sequence."""
    window: int | None = None
    """Number of positions back that a query sees; None for all."""

    def multipliers(self, dtype: torch.dtype) -> AbstractContextManager[None]:
        """Set the precision that the products of this stretch may have."""
        length = self.end - self.begin
        if length * (self.lead + length) < _LARGE:
            return multipliers("none")
        return multipliers("bf16" if dtype == torch.bfloat16 else None)

    def keys(self, row: Tensor, heads: int) -> Tensor:
        """(H, lead + own, d) keys that its last query sees, from a row (H_kv, T, d)."""
        inside = row[:, self.begin : self.end]
        seen = torch.cat([row[:, self.prompt : self.prompt + self.lead], inside], dim=1) if self.lead else inside
        # Contiguous, because otherwise every product would make its own contiguous copy.
        return seen.repeat_interleave(heads // len(row), dim=0) if heads > len(row) else seen.contiguous()

    def add_keys(self, row: Tensor, gradient: Tensor, first: int) -> None:
        """Reverse `keys`: add the gradient (H, k, d) of k keys from the `first` on to the gradient of the row."""
        if len(gradient) > len(row):
            gradient = gradient.view(len(row), -1, *gradient.shape[1:]).sum(1)
        before = max(0, self.lead - first)
        if before:
            row[:, self.prompt + first : self.prompt + self.lead].add_(gradient[:, :before])
        start = self.begin + max(0, first - self.lead)
        row[:, start : start + gradient.shape[1] - before].add_(gradient[:, before:])

    def tiles(self, heads: int) -> Iterator[Tile]:
        """Iterate over all queries of the stretch, some at a time."""
        length = self.end - self.begin
        most = max(16, min(_TILE, _ELEMENTS // (heads * (self.lead + length))))
        size = -(-length // -(-length // most))
        for begin in range(0, length, size):
            end = min(begin + size, length)
            hidden = _later(end - begin) if self.hidden is None else self.hidden[begin:end, :end]
            first, behind = 0, end - begin
            if self.window is not None:
                reach = self.lead + begin - self.window  # the last key that the first query no longer sees
                first, behind = max(0, reach + 1), max(1, -reach)
            queries = slice(self.begin + begin, self.begin + end)
            yield Tile(queries, slice(first, self.lead + end), hidden, min(behind, end - begin))


def stretches_of(spans: Sequence[Span], window: int | None = None) -> list[Stretch]:
    """Cut the row into stretches: short neighbours stay together, and the keys of a stretch are contiguous."""
    cuts: list[list[Span]] = []
    for span in spans:
        if cuts and _fits(cuts[-1], span, window):
            cuts[-1].append(span)
        elif span.first or span.length:
            cuts.append([span])
    return [_stretch(some, window) for some in cuts]


def _fits(some: Sequence[Span], span: Span, window: int | None) -> bool:
    """Tell whether a span can join its neighbours: it brings its prompt, or they have it."""
    begin, same = _first_position(some[0]), span.prompt == some[0].prompt
    holds = span.prompt >= begin
    whole = window is None or max(some[0].total, span.total) <= window
    return whole and span.end - begin <= _TOGETHER and (holds if some[0].first else same)


def _first_position(span: Span) -> int:
    return span.prompt if span.first else span.start


def _stretch(some: Sequence[Span], window: int | None) -> Stretch:
    first = some[0]
    begin, end, lead = _first_position(first), some[-1].end, 0 if first.first else first.prompt_length
    if len(some) == 1:
        return Stretch(begin, end, first.prompt, lead, window=window)
    hidden = torch.full((end - begin, end - begin), float("-inf"))
    for span in some:
        completion = slice(span.start - begin, span.end - begin)
        hidden[completion, completion] = _later(span.length)
        prompt = slice(span.prompt - begin, span.prompt - begin + span.prompt_length)
        if span.first:
            hidden[prompt, prompt] = _later(span.prompt_length)
        if prompt.start >= 0:
            hidden[completion, prompt] = 0.0
    return Stretch(begin, end, first.prompt, lead, hidden)


def attend_in_tiles(query: Tensor, key: Tensor, value: Tensor, stretches: Sequence[Stretch], asked: Asked) -> Tensor:
    """Attend (1, H, T, d), (1, H_kv, T, d), (1, H_kv, T, d') to (1, H, T, d'), with a graph; stretches hold the windows."""
    # Under autocast queries and keys come rotated in float32.
    rows = (tensor.squeeze(0).to(value.dtype) for tensor in (query, key, value))
    seed = _seed() if asked.dropout else 0
    alone = asked._replace(sinks=None)  # they go in as a tensor, which has a gradient
    output: Tensor = _Tiles.apply(*rows, asked.sinks, stretches, alone, seed)  # type: ignore[no-untyped-call]
    return output.unsqueeze(0)


class _Tiles(torch.autograd.Function):
    """Attention with its own backward, in float32 also for bfloat16 rows: short stretches lose more to conversions."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        sinks: Tensor | None,
        stretches: Sequence[Stretch],
        asked: Asked,
        seed: int,
    ) -> Tensor:
        ctx.stretches, ctx.asked, ctx.seed = stretches, asked, seed
        wide_query, wide_key, wide_value = map(_wide, (query, key, value))
        output = wide_query.new_empty(*query.shape[:2], value.shape[2])
        softmax = _Softmax(asked, sinks, seed, query.device)
        with torch.autocast(query.device.type, enabled=False):
            for stretch in stretches:
                with stretch.multipliers(query.dtype):
                    _forward(stretch, (wide_query, wide_key, wide_value, output), softmax)
        output = output.to(query.dtype)
        ctx.save_for_backward(query, key, value, output, sinks)
        return output

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        *saved, sinks = ctx.saved_tensors
        query, key, value, output, up = map(_wide, (*saved, upstream))
        gradients = (torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value))
        common = (up * output).sum(-1, keepdim=True)
        softmax = _Softmax(ctx.asked, sinks, ctx.seed, query.device)
        with torch.autocast(query.device.type, enabled=False):
            for stretch in ctx.stretches:
                with stretch.multipliers(upstream.dtype):
                    _backward(stretch, (query, key, value, up, common), gradients, softmax)
        for gradient in gradients[:2]:
            gradient.mul_(ctx.asked.scaling)
        to_sinks = None if sinks is None else softmax.to_sinks.to(sinks.dtype)
        return *(gradient.to(upstream.dtype) for gradient in gradients), to_sinks, None, None, None


class _Softmax:
    """Turns the scores of one tile after the other into probabilities, forward and, in the same order, backward."""

    def __init__(self, asked: Asked, sinks: Tensor | None, seed: int, device: torch.device) -> None:
        self.asked = asked
        self.cap = asked.softcap or 1.0
        self.random = torch.Generator(device).manual_seed(seed) if asked.dropout else None
        self.sinks = None if sinks is None else _wide(sinks)[:, None]
        self.to_sinks = torch.zeros((), device=device)

    def __call__(self, query: Tensor, keys: Tensor, tile: Tile) -> tuple[Tensor, Tensor | None]:
        """(H, n, k) probabilities in float32 or better, and the scores' slope where they are capped."""
        scores = keys.new_empty(*query.shape[:2], keys.shape[1])
        scaling = self.asked.scaling / self.cap
        torch.baddbmm(scores, query, keys.transpose(1, 2), beta=0, alpha=scaling, out=scores)
        slope = None
        if self.asked.softcap is not None:
            scores.tanh_()
            slope = 1 - scores.square()
            scores.mul_(self.cap)
        scores[:, :, -tile.hidden.shape[1] :].add_(tile.hidden.to(scores.device))
        left = query.shape[1] - tile.behind
        if left:
            gone = torch.ones(left, left, dtype=torch.bool, device=scores.device).tril_()
            scores[:, tile.behind :, :left].masked_fill_(gone, float("-inf"))
        if self.sinks is None:
            return torch.softmax(scores, -1, out=scores), slope
        share = torch.sigmoid(torch.logsumexp(scores, -1) - self.sinks)
        return torch.softmax(scores, -1, out=scores).mul_(share[:, :, None]), slope

    def kept(self, p: Tensor) -> Tensor | None:
        """The dropout mask of the next tile, divided by the share it keeps; None without dropout."""
        if self.random is None:
            return None
        share = 1 - self.asked.dropout
        return torch.empty_like(p).bernoulli_(share, generator=self.random).div_(share)

    def note(self, p: Tensor, common: Tensor) -> None:
        """Add a tile's part to the gradient of the sinks."""
        if self.sinks is not None:
            self.to_sinks = self.to_sinks - ((1 - p.sum(-1)) * common[:, :, 0]).sum(1)


def _forward(stretch: Stretch, rows: Sequence[Tensor], softmax: _Softmax) -> None:
    query, key, value, output = rows
    heads = len(query)
    keys, values = stretch.keys(key, heads), stretch.keys(value, heads)
    for tile in stretch.tiles(heads):
        p, _ = softmax(query[:, tile.place], keys[:, tile.keys], tile)
        dropout = softmax.kept(p)
        output[:, tile.place] = torch.bmm(p if dropout is None else p.mul_(dropout), values[:, tile.keys])


def _backward(stretch: Stretch, rows: Sequence[Tensor], gradients: Sequence[Tensor], softmax: _Softmax) -> None:
    query, key, value, up, common = rows
    to_query, to_key, to_value = gradients
    heads = len(query)
    keys, values = stretch.keys(key, heads), stretch.keys(value, heads)
    for tile in stretch.tiles(heads):
        queries, above = query[:, tile.place].contiguous(), up[:, tile.place].contiguous()
        p, slope = softmax(queries, keys[:, tile.keys], tile)
        dropout = softmax.kept(p)
        softmax.note(p, common[:, tile.place])
        d = torch.bmm(above, values[:, tile.keys].transpose(1, 2))
        if dropout is not None:
            d.mul_(dropout)
        d.sub_(common[:, tile.place]).mul_(p)
        if slope is not None:
            d.mul_(slope)
        to_query[:, tile.place] = torch.bmm(d, keys[:, tile.keys])
        stretch.add_keys(to_key, torch.bmm(d.transpose(1, 2), queries), tile.keys.start)
        seen = p if dropout is None else p.mul_(dropout)
        stretch.add_keys(to_value, torch.bmm(seen.transpose(1, 2), above), tile.keys.start)


def _seed() -> int:
    """Draw a seed from torch's generator, which checkpointing rewinds; the seed is real also for fake tensors."""
    with _disable_current_modes():
        return int(torch.randint(2**62, ()))


def _later(count: int) -> Tensor:
    """(n, n) matrix of minus infinity for keys after the query, else 0."""
    return torch.from_numpy(_above(count))


@lru_cache(maxsize=256)
def _above(count: int) -> NDArray[np.float32]:
    """The cached numpy array behind `_later`; a tensor made under fake tensors would stay fake for ever."""
    return np.triu(np.full((count, count), -np.inf, np.float32), 1)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.element_size() < 4 else tensor
