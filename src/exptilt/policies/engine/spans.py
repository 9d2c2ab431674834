"""Inputs of attention over a packed row: the spans of its sequences, and the options of a layer."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor


class Span(NamedTuple):
    """The range of one completion and its prompt in the packed row."""

    prompt: int
    prompt_length: int
    start: int
    length: int
    first: bool
    """True for the completion that follows its prompt at once (exactly one per prompt)."""

    @property
    def total(self) -> int:
        """Number of keys that the last token sees."""
        return self.prompt_length + self.length

    @property
    def end(self) -> int:
        """The position after the completion's last token."""
        return self.start + self.length


class Asked(NamedTuple):
    """The attention options of a layer."""

    scaling: float
    window: int | None = None
    """Number of positions that a query sees, itself included."""
    softcap: float | None = None
    """Scores s become softcap tanh(s / softcap)."""
    sinks: Tensor | None = None
    """(H,) logits that take part in the softmax and carry no value."""
    dropout: float = 0.0

    @property
    def special(self) -> bool:
        """Tell whether the options go beyond torch's fused kernels."""
        return self.softcap is not None or self.sinks is not None


class Decoding(Protocol):
    """What keeps the keys of rows that are decoded token by token, and attends to them itself."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, asked: Asked) -> Tensor:
        """(B, 1, H, d') from the queries (B, H, 1, d) of one new token a row, and from what it gave the layer as keys and values."""
        ...
