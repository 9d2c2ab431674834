"""Incremental decoding of a causal language model: prompts are read once, then every row gets token after token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from exptilt.data.groups import TokenIds
from exptilt.sampling.padded_decoding import PaddedState
from exptilt.sampling.shared_decoding import SharedState, shares_prompts


class State(Protocol):
    """The state of decoding B rows between two tokens."""

    logits: Tensor
    """(B, V) for the next token."""

    @property
    def seen(self) -> Tensor:
        """(B, T) every id so far; shorter prompts are filled up with their first token."""
        ...

    def select(self, rows: Tensor) -> None:
        """Select rows by index, in this order."""
        ...

    def advance(self, tokens: Tensor) -> None:
        """Feed one token (B,) to every row."""
        ...


def read_prompts(model: Any, prompts: Sequence[TokenIds], prompt_of: Sequence[int]) -> State:
    """Read prompts and begin rows after them.

    Args:
        model: a causal language model in evaluation mode.
        prompts: (P,) token ids of each.
        prompt_of: (B,) the prompt of each row.

    Raises:
        ModelError: the model returns no cache of keys and values.
    """
    kind = SharedState if shares_prompts(model) else PaddedState
    return kind(model, prompts, prompt_of)
