"""What attention over a packed row is told: where sequences lie, and what a layer asks."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Span(NamedTuple):
    """Where one completion and its prompt lie in the packed row."""

    prompt: int
    prompt_length: int
    start: int
    length: int
    first: bool
    """True for the completion that follows its prompt at once (exactly one per prompt)."""

    @property
    def total(self) -> int:
        """Number of keys the last token sees."""
        return self.prompt_length + self.length

    @property
    def end(self) -> int:
        """The place after the completion's last token."""
        return self.start + self.length


class Asked(NamedTuple):
    """What a layer asks of attention."""

    scaling: float
    window: int | None = None
    """How many positions back a query sees, itself included."""
    softcap: float | None = None
    """Scores s become softcap tanh(s / softcap)."""
    sinks: Tensor | None = None
    """(H,) logits that take part in the softmax and carry no value."""
    dropout: float = 0.0

    @property
    def special(self) -> bool:
        """Whether it goes beyond what fused kernels of torch do."""
        return self.softcap is not None or self.sinks is not None
