"""Where things lie in a packed row."""

from __future__ import annotations

from typing import NamedTuple


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
