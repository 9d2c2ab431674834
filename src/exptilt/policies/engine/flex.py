"""Packed attention on a GPU: FlexAttention over the whole row, which skips every block of keys that no query sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from exptilt.policies.engine.spans import Asked, Span
from exptilt.types import on_device

MULTIPLE = 128
"""Rows for this kernel are filled up to a multiple of its block size, so that few lengths occur and all are aligned."""


@dataclass(frozen=True, eq=False)
class Flex:
    """Of each token of the row, which prompt it belongs to, which part of that, and its position; all (T,) int32."""

    prompt: Tensor
    """Place of its prompt in the row."""
    part: Tensor
    """-1 in the prompt itself, else the place of its completion in the row."""
    position: Tensor
    """In its own sequence."""
    masks: dict[int | None, BlockMask] = field(default_factory=dict)
    """By window: every layer uses the same few."""

    @classmethod
    def of(cls, spans: Sequence[Span], num_tokens: int, device: torch.device | None = None) -> Flex:
        """Read it off the spans."""
        prompt, part, position = (torch.full((num_tokens,), -1, dtype=torch.int32) for _ in range(3))
        for span in spans:
            own, before = slice(span.start, span.end), slice(span.prompt, span.prompt + span.prompt_length)
            prompt[own] = prompt[before] = span.prompt
            part[own] = span.start
            position[own] = torch.arange(span.prompt_length, span.total)
            position[before] = torch.arange(span.prompt_length)
        return cls(on_device(prompt, device), on_device(part, device), on_device(position, device))

    def sees(self, window: int | None) -> Callable[..., Tensor]:
        """The rule, for one query and one key: same prompt, the prompt's or one's own part, not later, in the window."""
        prompt, part, position = self.prompt, self.part, self.position

        def rule(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            related = (prompt[query] == prompt[key]) & ((part[key] == -1) | (part[key] == part[query]))
            seen = related & (key <= query)
            return seen if window is None else seen & (position[query] - position[key] < window)

        return rule

    def mask(self, window: int | None) -> BlockMask:
        """Which blocks of the row any query sees."""
        if window not in self.masks:
            size, device = len(self.prompt), self.prompt.device
            make = _compiled(create_block_mask) if device.type == "cuda" else create_block_mask
            self.masks[window] = make(self.sees(window), None, None, size, size, device=device)
        return self.masks[window]


def attend_with_flex(query: Tensor, key: Tensor, value: Tensor, flex: Flex, asked: Asked) -> Tensor:
    """(1, H, T, d), (1, H_kv, T, d), (1, H_kv, T, d'), to (1, H, T, d')."""
    attend: Any = _compiled(flex_attention) if query.device.type == "cuda" else flex_attention
    options: dict[str, Any] = {"block_mask": flex.mask(asked.window), "scale": asked.scaling, "enable_gqa": True}
    if asked.softcap is not None:
        options["score_mod"] = _softcap(asked.softcap)
    # Under autocast queries and keys come rotated in float32.
    query, key = query.to(value.dtype), key.to(value.dtype)
    if asked.sinks is None:
        output: Tensor = attend(query, key, value, **options)
        return output
    from torch.nn.attention.flex_attention import AuxRequest  # torch 2.9 or newer, and only sinks need it

    output, aux = attend(query, key, value, return_aux=AuxRequest(lse=True), **options)
    kept = torch.sigmoid(aux.lse - asked.sinks.view(1, -1, 1).to(aux.lse.dtype))
    return output * kept.unsqueeze(-1).to(output.dtype)


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled once for the first length and once for all others."""
    return torch.compile(function)


@cache
def _softcap(cap: float) -> Callable[..., Tensor]:
    """The same function for the same cap, so that nothing is compiled twice."""

    def modify(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return cap * torch.tanh(score / cap)

    return modify
