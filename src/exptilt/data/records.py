"""Canonical records, to which every known row format is converted before it is rendered. Never imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from exptilt.data.turns import Message as Message
from exptilt.data.turns import said_by
from exptilt.labels import Desirable, Preferred, Ranked

Text = str | tuple[Message, ...]
"""Plain text, or a list of chat turns."""

TemplateArgs = Mapping[str, Any]
"""Arguments that a row gives the chat template besides its turns: `tools`, and the template's own."""


class DrawnIds(NamedTuple):
    """Token ids of a row as they were sampled: text does not always become the same tokens again.

    Example:
        >>> DrawnIds((5,), ((7, 2), (8, 2), (9, 2))).only(2, 0)
        DrawnIds(prompt=(5,), completions=((9, 2), (7, 2)))
    """

    prompt: tuple[int, ...]
    completions: tuple[tuple[int, ...], ...]

    def only(self, *positions: int) -> DrawnIds:
        """Those of some completions, by position."""
        return self._replace(completions=tuple(self.completions[at] for at in positions))


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """A prompt and two completions, one preferred."""

    id: str
    """Origin of the row, for messages to people: `file.jsonl:17`."""
    prompt: Text
    chosen: Text
    rejected: Text
    p_chosen: float = 1.0
    """Probability that `chosen` is better, in [0, 1]; 0.5 is a tie."""
    margin: float | None = None
    """Advantage of `chosen` on the source's own scale, if it gives one."""
    scores: tuple[float, float] | None = None
    """Scores of chosen and rejected on that scale, if the source gives both."""
    weight: float = 1.0
    both_desirable: bool | None = None
    """For a tie, whether both sides are good (true) or bad (false), if the source tells."""
    section: str | None = None
    """Part of a benchmark that it belongs to, if the source tells."""
    drawn_ids: DrawnIds | None = None
    """Token ids to train on instead of those of the text, if the source gives them."""
    template_args: TemplateArgs = field(default_factory=dict)

    @property
    def completions(self) -> tuple[Text, ...]:
        """The chosen and the rejected completion, in this order."""
        return (self.chosen, self.rejected)

    @property
    def label(self) -> Preferred:
        """The label of chosen and rejected."""
        return Preferred(self.p_chosen, self.margin)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """A prompt and K completions with ranks; 1 is best, equal ranks are ties."""

    id: str
    prompt: Text
    completions: tuple[Text, ...]
    ranks: tuple[int, ...]
    scores: tuple[float, ...] | None = None
    weight: float = 1.0
    section: str | None = None
    """What part of a benchmark it belongs to, if the source says so."""
    drawn_ids: DrawnIds | None = None
    """As a preference's."""
    template_args: TemplateArgs = field(default_factory=dict)

    @property
    def label(self) -> Ranked:
        """The label of the completions."""
        return Ranked(self.ranks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """A prompt and one completion that is desirable or not."""

    id: str
    prompt: Text
    completion: Text
    desirable: bool
    score: float | None = None
    weight: float = 1.0
    drawn_ids: DrawnIds | None = None
    """As a preference's."""
    template_args: TemplateArgs = field(default_factory=dict)

    @property
    def completions(self) -> tuple[Text, ...]:
        """The completion alone."""
        return (self.completion,)

    @property
    def label(self) -> Desirable:
        """The label of the completion."""
        return Desirable(self.desirable)

    @property
    def scores(self) -> tuple[float, ...] | None:
        """(1,) the score, if there is one."""
        return None if self.score is None else (self.score,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstration:
    """A prompt and one completion to imitate."""

    id: str
    prompt: Text
    completion: Text
    weight: float = 1.0
    drawn_ids: DrawnIds | None = None
    """As a preference's."""
    template_args: TemplateArgs = field(default_factory=dict)

    @property
    def completions(self) -> tuple[Text, ...]:
        """The completion alone."""
        return (self.completion,)

    @property
    def label(self) -> None:
        """A completion to imitate has no label."""
        return

    @property
    def scores(self) -> None:
        """A completion to imitate has no score."""
        return


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A prompt alone: nothing to train on, and something to sample from."""

    id: str
    prompt: Text
    answer: str | None = None
    """The right answer, if the source gives one."""
    weight: float = 1.0
    template_args: TemplateArgs = field(default_factory=dict)

    @property
    def completions(self) -> tuple[Text, ...]:
        """None at all."""
        return ()

    @property
    def label(self) -> None:
        """A prompt has no label."""
        return

    @property
    def scores(self) -> None:
        """A prompt has no score."""
        return

    @property
    def drawn_ids(self) -> None:
        """A prompt is tokenised when it is sampled from."""
        return


Record = Preference | Ranking | Rating | Demonstration | Prompt


def as_turns(text: Text, role: str) -> tuple[Message, ...]:
    """Convert text to one turn of `role`; turns stay, and empty text is no turn."""
    if not isinstance(text, str):
        return text
    return ({"role": role, "content": text},) if text or role == "assistant" else ()


def align(prompt: Text, completions: tuple[Text, ...]) -> tuple[Text, tuple[Text, ...]]:
    """Convert prompt and completions to all text or all turns: turns as soon as one of them is.

    Example:
        >>> align("2+2?", ("4", ({"role": "assistant", "content": "5"},)))[0]
        ({'role': 'user', 'content': '2+2?'},)
    """
    if all(isinstance(text, str) for text in (prompt, *completions)):
        return prompt, completions
    return as_turns(prompt, "user"), tuple(as_turns(completion, "assistant") for completion in completions)


def words_of(text: Text) -> str:
    """All words of a text or of turns, with reasoning and tool calls but without roles: to compare, hash and measure."""
    return text if isinstance(text, str) else "\n".join(said_by(turn) for turn in text)
