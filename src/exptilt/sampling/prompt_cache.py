"""Keys and values of decoding, with those of a prompt held once for all its samples, and attention over both parts.

A row's query sees its prompt and its own tokens. The two parts are attended apart and joined by their log-sum-exps:

    prompt   (P prompts, heads, rows of the prompt, d) against (P, heads, d, prompt): products of matrices, not of vectors
    own      (B rows, heads, 1, d) against the row's own tokens, in a buffer that is filled in place

Prompts of like length share one tensor, so that little of it is padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from exptilt.errors import ModelError
from exptilt.policies.engine.spans import Asked

_FULL = 4
"""Bytes of a number in which scores are summed, at least."""
_GROWTH = 64
"""Tokens by which the buffer of a row's own tokens grows."""
_PADDING = 1.2
"""Prompts up to so many times as long as the shortest share a tensor."""
_AS_MATRIX = 4
"""From so many rows of one prompt on, products run faster with the prompt's keys transposed."""
_DROP = 0.75
"""Prompts without a row are dropped from a tensor once fewer than this share of its prompts has one: dropping copies it."""


@dataclass(eq=False)
class Bucket:
    """P prompts of like length, and the rows of the batch that belong to them."""

    prompts: list[int]
    lengths: Tensor
    """(P,)."""
    keys: list[Tensor] = field(default_factory=list)
    """(P heads, d, width) of each layer."""
    values: list[Tensor] = field(default_factory=list)
    """(P heads, width, d') of each layer."""
    rows: Tensor | None = None
    """Places of the bucket's rows in the batch."""
    slots: Tensor | None = None
    """Place of each of these rows among P times `most`; None where each is at its own place."""
    most: int = 1
    """Rows of the prompt that has most."""

    @property
    def padding(self) -> Tensor | None:
        """(P, 1, width) -inf at padding, else 0; None where nothing is padded."""
        width = int(self.lengths.max())
        if bool((self.lengths == width).all()):
            return None
        is_padding = torch.arange(width, device=self.lengths.device) >= self.lengths[:, None]
        return torch.zeros(is_padding.shape, device=self.lengths.device).masked_fill_(is_padding, -torch.inf)[:, None]

    def drop(self, alive: set[int]) -> None:
        """Drop prompts that no row has any more, if there are enough of them."""
        kept = [place for place, prompt in enumerate(self.prompts) if prompt in alive]
        if len(kept) >= _DROP * len(self.prompts):
            return
        index = torch.tensor(kept, device=self.lengths.device)
        count, width = len(self.prompts), int(self.lengths[index].max())
        for layer, (keys, values) in enumerate(zip(self.keys, self.values, strict=True)):
            by_token = _split(keys.transpose(1, 2), 0, count)[index, :, :width].flatten(0, 1).transpose(1, 2)
            self.keys[layer] = by_token.contiguous() if keys.is_contiguous() else by_token
            self.values[layer] = _split(values, 0, count)[index, :, :width].flatten(0, 1)
        self.prompts, self.lengths = [self.prompts[place] for place in kept], self.lengths[index]

    def seat(self, prompt_of: Sequence[int], device: torch.device) -> None:
        """Give every row of the bucket its place."""
        place_of = {prompt: place for place, prompt in enumerate(self.prompts)}
        rows = [row for row, prompt in enumerate(prompt_of) if prompt in place_of]
        counts, ranks = [0] * len(self.prompts), []
        for row in rows:
            place = place_of[prompt_of[row]]
            ranks.append((place, counts[place]))
            counts[place] += 1
        self.most = max(counts)
        slots = [place * self.most + rank for place, rank in ranks]
        self.rows = torch.tensor(rows, dtype=torch.int64, device=device)
        in_order = slots == list(range(len(self.prompts) * self.most))
        self.slots = None if in_order else torch.tensor(slots, dtype=torch.int64, device=device)

    def attend(self, layer: int, query: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor]:
        """The prompt's part for the bucket's rows: (R, heads, G, d') and its log-sum-exp (R, heads, G, 1), from (R, heads, G, d)."""
        if self.slots is not None:
            seated = query.new_zeros((len(self.prompts) * self.most, *query.shape[1:]))
            seated[self.slots] = query
            query = seated
        queries = _split(query, 0, len(self.prompts)).transpose(1, 2).flatten(2, 3).flatten(0, 1)
        parts = _part(queries, self.keys[layer], self.values[layer], padding)
        out, logs = (
            _split(_split(part, 0, len(self.prompts)), 2, self.most).transpose(1, 2).flatten(0, 1) for part in parts
        )
        return (out, logs) if self.slots is None else (out[self.slots], logs[self.slots])


class OwnTokens(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """Keys and values of the rows' own tokens in one layer, in buffers (B, heads, capacity, d)."""

    is_sliding = False

    def __init__(self, cache: PromptCache, index: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._cache, self._index, self._count = cache, index, 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Make the buffers."""
        self.keys, self.values = (_grown(states[:, :, :0], 0) for states in (key_states, value_states))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_args: Any, **_options: Any) -> tuple[Tensor, Tensor]:
        """Add one token to every row; returns the keys and values of all own tokens."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None  # noqa: S101, PT018 - for mypy
        if self._count == self.keys.shape[2]:
            self.keys, self.values = _grown(self.keys, self._count), _grown(self.values, self._count)
        self.keys[:, :, self._count] = key_states[:, :, 0]
        self.values[:, :, self._count] = value_states[:, :, 0]
        self._count += 1
        seen = self.keys[:, :, : self._count], self.values[:, :, : self._count]
        self._cache.expect(self._index, seen[0])
        return seen

    def select(self, rows: Tensor) -> None:
        """Select rows by index."""
        if self.keys is None or self.values is None:
            return
        for name, buffer in (("keys", self.keys), ("values", self.values)):
            selected = buffer.new_empty((len(rows), *buffer.shape[1:]))
            selected[:, :, : self._count] = buffer[:, :, : self._count][rows]
            setattr(self, name, selected)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Not asked: the mask is ready."""
        return self._cache.longest + self._count + query_length, 0

    def get_seq_length(self) -> int:
        """Tokens of the longest row."""
        return self._cache.longest + self._count

    def get_max_length(self) -> int:
        """No limit."""
        return -1


class PromptCache(Cache):
    """What a model's layers keep while B rows are decoded.

    Args:
        prompts: keys and values of each prompt in each layer: `prompts[layer][prompt]` is (heads, T, d) and (heads, T, d').
        prompt_of: the prompt of each row.
    """

    def __init__(self, prompts: list[list[tuple[Tensor, Tensor]]], prompt_of: Sequence[int]) -> None:
        super().__init__(layers=[OwnTokens(self, index) for index in range(len(prompts))])
        self._prompt_of = list(prompt_of)  # every prompt has a row
        self._device = prompts[0][0][0].device
        lengths = [keys.shape[1] for keys, _ in prompts[0]]
        self.longest = max(lengths)
        self._buckets = [
            Bucket(members, torch.tensor([lengths[prompt] for prompt in members], device=self._device))
            for members in _like_lengths(lengths)
        ]
        self._expected: tuple[int, Tensor] | None = None
        self._seat()
        for layer in range(len(prompts)):
            for bucket in self._buckets:
                keys, values = (
                    _stacked([prompts[layer][prompt][which] for prompt in bucket.prompts]) for which in (0, 1)
                )
                transposed = keys.transpose(1, 2)
                bucket.keys.append(transposed.contiguous() if bucket.most >= _AS_MATRIX else transposed)
                bucket.values.append(values)
            prompts[layer] = []  # else all of them would stand in memory twice

    def select(self, rows: Tensor) -> None:
        """Select rows by index."""
        for layer in self.layers:
            layer.select(rows)  # type: ignore[union-attr]
        self._prompt_of = [self._prompt_of[row] for row in rows.tolist()]
        alive = set(self._prompt_of)
        self._buckets = [bucket for bucket in self._buckets if not alive.isdisjoint(bucket.prompts)]
        for bucket in self._buckets:
            bucket.drop(alive)
        self._seat()

    def _seat(self) -> None:
        for bucket in self._buckets:
            bucket.seat(self._prompt_of, self._device)
        self._paddings = [bucket.padding for bucket in self._buckets]

    def expect(self, layer: int, keys: Tensor) -> None:
        """Note which layer attends next, and to which keys."""
        self._expected = (layer, keys)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, asked: Asked) -> Tensor:
        """Attention of one new token of every row.

        Args:
            query: (B, H, 1, d).
            key: (B, heads, n, d) as this cache gave it.
            value: (B, heads, n, d').
            asked: the layer's options.

        Returns:
            (B, 1, H, d').

        Raises:
            ModelError: the layer asks for what this cache has not, or did not get its keys from it.
        """
        if self._expected is None or key is not self._expected[1] or query.shape[2] != 1:
            raise ModelError("a layer attends to keys that are not those of its own cache")
        if asked.special or asked.window is not None:
            raise ModelError("a layer has a window, a soft cap or sinks, which prompts held once do not support")
        (layer, _), heads = self._expected, key.shape[1]
        grouped = _split(query.squeeze(2), 1, heads) * asked.scaling
        own, own_logs = _part(grouped.flatten(0, 1), key.flatten(0, 1).transpose(1, 2), value.flatten(0, 1), None)
        own, own_logs = _split(own, 0, len(query)), _split(own_logs, 0, len(query))
        prompt, prompt_logs = self._prompt_part(layer, grouped, value.shape[-1])
        joined = torch.lerp(own, prompt, torch.sigmoid(prompt_logs - own_logs).to(own.dtype))
        return joined.flatten(1, 2).unsqueeze(1)

    def _prompt_part(self, layer: int, query: Tensor, size: int) -> tuple[Tensor, Tensor]:
        if len(self._buckets) == 1:
            return self._buckets[0].attend(layer, query, self._paddings[0])
        out = query.new_empty((*query.shape[:3], size))
        logs = query.new_empty((*query.shape[:3], 1), dtype=torch.promote_types(query.dtype, torch.float32))
        for bucket, padding in zip(self._buckets, self._paddings, strict=True):
            assert bucket.rows is not None  # noqa: S101 - for mypy
            out[bucket.rows], logs[bucket.rows] = bucket.attend(layer, query[bucket.rows], padding)
        return out, logs


def _part(query: Tensor, keys: Tensor, values: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor]:
    """Attention (N, M, d') and the log-sum-exp of its scores (N, M, 1), from (N, M, d), (N, d, T) and (N, T, d').

    `padding` is (P, 1, T), with P heads in N.
    """
    scores = torch.bmm(query, keys)
    if scores.itemsize < _FULL:
        scores = scores.float()
    if padding is not None:
        _split(scores, 0, len(padding)).add_(padding[:, None])
    most = scores.amax(dim=-1, keepdim=True)
    weights = scores.sub_(most).exp_()
    total = weights.sum(dim=-1, keepdim=True)
    return torch.bmm(weights.to(values.dtype), values) / total.to(values.dtype), most + total.log()


def _split(tensor: Tensor, dimension: int, count: int) -> Tensor:
    """A view with one dimension split into `count` and the rest."""
    before, after = tensor.shape[:dimension], tensor.shape[dimension + 1 :]
    return tensor.view(*before, count, tensor.shape[dimension] // count, *after)


def _like_lengths(lengths: Sequence[int]) -> list[list[int]]:
    """Prompts by length: each list holds some whose lengths are alike.

    Example:
        >>> _like_lengths([300, 10, 310, 11])
        [[1, 3], [0, 2]]
    """
    buckets: list[list[int]] = []
    for prompt in sorted(range(len(lengths)), key=lengths.__getitem__):
        if not buckets or lengths[prompt] > _PADDING * lengths[buckets[-1][0]] + 8:
            buckets.append([])
        buckets[-1].append(prompt)
    return buckets


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    """(P heads, T, d), filled up with zeros, from (heads, T', d) of each prompt."""
    longest = max(part.shape[1] for part in parts)
    heads, _, size = parts[0].shape
    whole = parts[0].new_zeros((len(parts), heads, longest, size))
    for place, part in enumerate(parts):
        whole[place, :, : part.shape[1]] = part
    return whole.flatten(0, 1)


def _grown(buffer: Tensor, count: int) -> Tensor:
    """A longer buffer (B, heads, capacity, d) with the same first `count` tokens."""
    grown = buffer.new_empty((*buffer.shape[:2], buffer.shape[2] + _GROWTH, buffer.shape[3]))
    grown[:, :, :count] = buffer[:, :, :count]
    return grown
