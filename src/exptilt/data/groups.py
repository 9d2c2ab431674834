"""The unit of work: one prompt and K completions, as token ids. Never imports torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

TokenIds = NDArray[np.int32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Completion:
    """Token ids of one completion and which of them count (are in the loss)."""

    ids: TokenIds
    """(n,) what follows the prompt's ids, the end token included."""
    counted: Mask
    """(n,) False on user and tool turns inside a multi-turn completion."""

    @property
    def length(self) -> int:
        """How many tokens count."""
        return int(np.count_nonzero(self.counted))


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Group:
    """One prompt and K >= 1 completions. For a preference the order is chosen, rejected."""

    id: str
    """Where the row came from, for messages to people."""
    prompt: TokenIds
    """(p,) with BOS if the tokenizer sets one; empty only where the completion's first token does not count."""
    completions: tuple[Completion, ...]
    p_chosen: float = 1.0
    margin: float | None = None
    ranks: tuple[int, ...] = field(default=())
    scores: tuple[float, ...] | None = None
    desirable: bool = True
    weight: float = 1.0
    section: str | None = None
    """What part of a benchmark it belongs to, for accuracy by section."""

    @property
    def num_tokens(self) -> int:
        """Unique tokens: the prompt once, every completion once."""
        return len(self.prompt) + sum([len(completion.ids) for completion in self.completions])


def digest_of(groups: Iterable[Group]) -> str:
    """A fingerprint of tokenised rows, in order."""
    digest = hashlib.blake2b(digest_size=16)
    for group in groups:
        labels = (group.weight, group.p_chosen, group.desirable, group.margin, group.scores, group.ranks)
        digest.update(group.prompt.tobytes() + repr(labels).encode())
        for completion in group.completions:
            digest.update(b"|" + completion.ids.tobytes() + completion.counted.tobytes())
    return digest.hexdigest()
