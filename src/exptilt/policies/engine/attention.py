"""Exact attention over a packed row: each completion sees its prompt and itself, and nothing else.

Two implementations give equal numbers, with windows, soft caps and sinks; neither builds a (tokens, tokens) mask:

    flex      on CUDA: one compiled FlexAttention kernel over the whole row
    tiles     elsewhere, and with dropout: the products themselves, tile by tile, with their own backward

Importing this module registers `NAME` with transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from exptilt.errors import ModelError
from exptilt.policies.engine.flex import Flex, attend_with_flex
from exptilt.policies.engine.plain_attention import written_out
from exptilt.policies.engine.spans import Asked, Decoding, Span
from exptilt.policies.engine.tiles import Stretch, attend_in_tiles, stretches_of

NAME = "exptilt_segments"
"""The attention implementation's name in transformers."""


@dataclass(frozen=True, eq=False)
class Segments:
    """The layout of one packed row: which token may attend to which. The model's forward gets it as keyword `segments`."""

    spans: Sequence[Span]
    num_tokens: int
    device: torch.device | None = None
    windows: set[int | None] = field(default_factory=set)
    """The sliding windows the layers asked for, collected as they run."""
    cuts: dict[int | None, list[Stretch]] = field(default_factory=dict)
    """The row's stretches by window."""

    @cached_property
    def longest(self) -> int:
        """Number of tokens of the longest sequence; a window of at least this size has no effect."""
        return max(span.total for span in self.spans)

    @cached_property
    def flex(self) -> Flex:
        """The layout in the form that FlexAttention needs."""
        return Flex.of(self.spans, self.num_tokens, self.device)

    def stretches(self, window: int | None = None) -> list[Stretch]:
        """The layout in the form that tiles need; all layers share these stretches."""
        if window not in self.cuts:
            self.cuts[window] = stretches_of(self.spans, window)
        return self.cuts[window]


def mask_of(segments: Segments) -> Tensor:
    """Make the mask argument that a model gets for a packed row.

    It has four dimensions, so that transformers passes it on untouched and builds none of (T, T), and it carries the
    segments, because some architectures (StableLM, Nemotron) hand their layers the mask but no other keyword.
    """
    mask = torch.ones((1, 1, 1, 1), dtype=torch.bool, device=segments.device)
    mask.segments = segments  # type: ignore[attr-defined]
    return mask


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
    """Attention for transformers' interface: packed if `segments` is given, of a `Decoding` if the mask has one, else `sdpa`.

    Args:
        module: the attention layer.
        query: (1, H, T, d).
        key: (1, H_kv, T, d), grouped heads not yet repeated.
        value: (1, H_kv, T, d').
        attention_mask: used only without `segments` (generation, plain batches); see `mask_of`.
        segments: the layout of the packed row.
        options: `scaling`, `dropout`, `sliding_window`, `softcap`, `s_aux` (attention sinks) as layers pass them.

    Returns:
        (1, T, H, d') and None in place of attention weights.

    Raises:
        ModelError: if the layer adds a position bias, which a packed row cannot carry.
    """
    scaling = options.get("scaling")
    asked = Asked(
        scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
        window=options.get("sliding_window"),
        softcap=options.get("softcap"),
        sinks=options.get("s_aux"),
        dropout=options.get("dropout", 0.0),
    )
    decoding: Decoding | None = getattr(attention_mask, "decoding", None)
    if decoding is not None:
        return decoding.attend(query, key, value, asked), None
    if segments is None:
        segments = getattr(attention_mask, "segments", None)
    if segments is None and attention_mask is not None and attention_mask.numel() < key.shape[2]:
        raise ModelError(f"{type(module).__name__} lost the cuts of a packed row on its way")
    if segments is None:
        if asked.special:
            return written_out(query, key, value, attention_mask, asked).transpose(1, 2).contiguous(), None
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    if options.get("position_bias") is not None:
        raise ModelError(f"{type(module).__name__} adds a position bias to attention, which packed rows do not support")
    segments.windows.add(asked.window)
    if asked.window is not None and asked.window >= segments.longest:
        asked = asked._replace(window=None)
    # The layout is that of sdpa: some layers (AFMoE, JetMoE) take a view of it.
    return _packed(query, key, value, segments, asked).contiguous(), None


@torch.compiler.disable  # type: ignore[untyped-decorator]  # every row is cut differently and would be compiled again
def _packed(query: Tensor, key: Tensor, value: Tensor, segments: Segments, asked: Asked) -> Tensor:
    if query.device.type == "cuda" and not asked.dropout:
        return attend_with_flex(query, key, value, segments.flex, asked).transpose(1, 2)
    return attend_in_tiles(query, key, value, segments.stretches(asked.window), asked).transpose(1, 2)


AttentionInterface.register(NAME, segments_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
