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
    """The prompt, the part of that prompt and the position of each token in the row; all (T,) int32."""

    prompt: Tensor
    """Place of its prompt in the row."""
    part: Tensor
    """-1 in the prompt itself, else the place of its completion in the row."""
    position: Tensor
    """Position of each token in its own sequence."""
    masks: dict[int | None, BlockMask] = field(default_factory=dict)
    """Block masks by window; all layers share them."""

    @classmethod
    def of(cls, spans: Sequence[Span], num_tokens: int, device: torch.device | None = None) -> Flex:
        """Compute the layout from the spans."""
        prompt, part, position = (torch.full((num_tokens,), -1, dtype=torch.int32) for _ in range(3))
        for span in spans:
            completion, before = slice(span.start, span.end), slice(span.prompt, span.prompt + span.prompt_length)
            prompt[completion] = prompt[before] = span.prompt
            part[completion] = span.start
            position[completion] = torch.arange(span.prompt_length, span.total)
            position[before] = torch.arange(span.prompt_length)
        return cls(on_device(prompt, device), on_device(part, device), on_device(position, device))

    def sees(self, window: int | None) -> Callable[..., Tensor]:
        """Build the rule for one query and one key: same prompt; key in prompt or same part; not later; inside the window."""
        prompt, part, position = self.prompt, self.part, self.position

        def rule(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            related = (prompt[query] == prompt[key]) & ((part[key] == -1) | (part[key] == part[query]))
            seen = related & (key <= query)
            return seen if window is None else seen & (position[query] - position[key] < window)

        return rule

    def mask(self, window: int | None) -> BlockMask:
        """The block mask: all blocks of the row that some query sees."""
        if window not in self.masks:
            size, device = len(self.prompt), self.prompt.device
            make = _compiled(create_block_mask) if device.type == "cuda" else create_block_mask
            self.masks[window] = make(self.sees(window), None, None, size, size, device=device)
        return self.masks[window]


def attend_with_flex(query: Tensor, key: Tensor, value: Tensor, flex: Flex, asked: Asked) -> Tensor:
    """Attend from (1, H, T, d), (1, H_kv, T, d), (1, H_kv, T, d') to (1, H, T, d')."""
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
    share = torch.sigmoid(aux.lse - asked.sinks.view(1, -1, 1).to(aux.lse.dtype))
    return output * share.unsqueeze(-1).to(output.dtype)


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel, compiled once for the first length and once for all other lengths."""
    return torch.compile(function)


@cache
def _softcap(cap: float) -> Callable[..., Tensor]:
    """The score function of a cap; equal caps share one function object, so that nothing is compiled twice."""

    def modify(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return cap * torch.tanh(score / cap)

    return modify
