"""Who prefers what: the protocols of rewards and judges, and the records they share. Never imports torch.

A reward gives each answer a number; a judge compares answers and gives verdicts. Both protocols stand here, below the
rooms that implement them, so that a judge can serve as a reward and a reward as a judge without a circle.

    Answer                    one completion, as text, turns and token ids
    Reward                    answers -> (N,) numbers, NaN where an answer is unscored
    Comparison                one prompt and K answers, known by a digest that does not depend on their order
    Verdict, Judge            comparisons -> verdicts
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from exptilt.data.records import Message, Text

Outcome = Literal["first", "second", "tie", "both_bad", "skip", "unscored"]
"""What a rater says of two answers in the order in which it saw them; `unscored` is no answer at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One completion, as rewards and judges read it."""

    prompt: Text
    text: str
    messages: tuple[Message, ...] | None = None
    """The completion as chat turns, where it has them."""
    ids: NDArray[np.int32] | None = None
    """(T,) its token ids, where it was sampled here."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """What the row says besides, for example the `answer` that a verifier compares with."""


class Reward(Protocol):
    """Says how good answers are."""

    @property
    def name(self) -> str:
        """What tables call it."""

    @property
    def identity(self) -> str:
        """Equal exactly where two rewards give equal numbers; it enters caches and run folders."""

    @property
    def scale(self) -> str:
        """What its numbers mean, in words: "probability", "nats", "1 right, 0 wrong"."""

    def __call__(self, answers: Sequence[Answer]) -> NDArray[np.float64]:
        """(N,) numbers, one for each answer; NaN is unscored: counted, of weight 0, and never taken for 0."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One prompt and K >= 2 answers to it.

    Example:
        >>> one, other = Comparison("2 + 2?", ("4", "5")), Comparison("2 + 2?", ("5", "4"))
        >>> one.id == other.id, one.id == Comparison("2 + 3?", ("4", "5")).id
        (True, False)
    """

    prompt: Text
    answers: tuple[str, ...]
    _id: str | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.answers) < 2:
            raise ValueError(f"a comparison needs at least two answers, got {len(self.answers)}")

    @property
    def id(self) -> str:
        """SHA-256 of the prompt and the unordered answers, so that both orders are one comparison."""
        if self._id is None:  # asked for many times
            content = json.dumps([_plain_text(self.prompt), sorted(self.answers)], ensure_ascii=False, sort_keys=True)
            digest = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
            object.__setattr__(self, "_id", digest)
            return digest
        return self._id


def _plain_text(text: Text) -> Any:
    return text if isinstance(text, str) else [dict(message) for message in text]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one rater says of one comparison in one order."""

    comparison: str
    """The comparison's id."""
    order: tuple[int, ...]
    """Positions of the answers in the order shown: (1, 0) showed the second answer first."""
    outcome: Outcome
    probability: float | None = None
    """That the answer shown first is better, in [0, 1], where the rater gives one."""
    reason: str = ""

    def __post_init__(self) -> None:
        if sorted(self.order) != list(range(len(self.order))):
            raise ValueError(f"order must name each answer once, got {self.order}")
        if self.probability is not None and not 0 <= self.probability <= 1:
            raise ValueError(f"probability must be in [0, 1], got {self.probability}")

    @property
    def winner(self) -> int | None:
        """Position of the better answer in the comparison; None for everything that is not a choice.

        Example:
            >>> Verdict(comparison="c", order=(1, 0), outcome="first").winner
            1
        """
        return {"first": self.order[0], "second": self.order[1]}.get(self.outcome)


class Judge(Protocol):
    """Compares answers."""

    @property
    def name(self) -> str:
        """What tables call it."""

    @property
    def identity(self) -> str:
        """Equal exactly where two judges would be asked the same; it enters the store of votes."""

    def __call__(self, comparisons: Iterable[Comparison]) -> Iterator[Verdict]:
        """Verdicts on all comparisons, both orders asked; a failed call is `unscored`, never a verdict."""
