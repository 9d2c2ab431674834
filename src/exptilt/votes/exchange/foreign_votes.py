"""A vote of another tool as the store's rows: what the store has no column for goes along, so that it can be written again.

The rest of a row is kept as a call of the vote (`request`), and the judge's own words as its `reply`; such a call is never
served. The nonce is a digest of the vote and of how often the same came before it in its file, so importing a file
twice adds nothing, and two equal rows of one file are two votes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from exptilt.data.records import Message, Text
from exptilt.preferences import Comparison, Outcome
from exptilt.votes.vote_records import Call, Rater, Vote, canonical_order

Row = Mapping[str, Any]
StoredRow = tuple[Comparison, Vote, Sequence[Call], Sequence[str]]

_TURN = re.compile(r"\n\n<<< (USER|ASSISTANT|SYSTEM|TOOL) >>>\n")


class UnfitError(Exception):
    """Why a row of another tool is no vote; its words are what the count is called."""


@dataclass(frozen=True, kw_only=True)
class ForeignVote:
    """One vote on two answers, in the order in which they were shown."""

    prompt: Text
    answers: tuple[str, str]
    """The one shown first, and the other."""
    sources: tuple[str, str]
    """Who wrote them."""
    rater: Rater
    outcome: Outcome
    probability: float | None = None
    """That the first is better."""
    strength: str = ""
    reply: str = ""
    """The judge's own words."""
    rest: Row = field(default_factory=dict)
    """Of the row, what the vote does not say."""


def stored_rows(votes: Iterable[ForeignVote], form: str) -> Iterator[StoredRow]:
    """Rows for `VoteStore.add_with_calls`.

    Args:
        votes: of one file or folder.
        form: its format; what was kept of a row is written again in this format alone.
    """
    times: Counter[str] = Counter()
    for foreign in votes:
        comparison = Comparison(foreign.prompt, foreign.answers)
        place = canonical_order(comparison)
        said: list[Any] = [comparison.id, place, foreign.rater.kind, foreign.rater.name, foreign.rater.identity]
        said += [foreign.outcome, foreign.probability, foreign.strength, foreign.reply, dict(foreign.rest)]
        digest = hashlib.sha256(json.dumps([form, said], sort_keys=True).encode()).hexdigest()
        times[digest] += 1
        nonce = f"{form}-{digest[:48]}-{times[digest]}"
        vote = Vote(
            comparison=comparison.id,
            rater=foreign.rater,
            order=place,
            outcome=foreign.outcome,
            probability=foreign.probability,
            strength=foreign.strength,
            nonce=nonce,
        )
        kept = Call(
            key=nonce, request=json.dumps({form: dict(foreign.rest)}), reply=json.dumps(foreign.reply), usable=False
        )
        yield comparison, vote, [kept] if foreign.rest or foreign.reply else [], foreign.sources


def text_of_turns(turns: Sequence[Message]) -> str:
    """A completion of several turns as one answer; a single turn is its own text.

    Raises:
        UnfitError: a text holds the marks that part turns, or does not begin with the assistant's.

    Example:
        >>> turns = ({"role": "assistant", "content": "4"}, {"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes"})
        >>> turns_of_text(text_of_turns(turns)) == turns
        True
    """
    if not turns or turns[0]["role"] != "assistant":
        raise UnfitError("no answer of the assistant after the shared prompt")
    parts = [str(turns[0]["content"])]
    for turn in turns[1:]:
        if turn["role"].upper() not in ("USER", "ASSISTANT", "SYSTEM", "TOOL"):
            raise UnfitError(f"a turn of {turn['role']!r}")
        parts.append(f"\n\n<<< {turn['role'].upper()} >>>\n{turn['content']}")
    if any(_TURN.search(str(turn["content"])) for turn in turns):
        raise UnfitError("a text that holds the marks between turns")
    return "".join(parts)


def turns_of_text(answer: str) -> tuple[Message, ...]:
    """The turns of an answer, see `text_of_turns`."""
    first, *rest = _TURN.split(answer)
    turns: list[Message] = [{"role": "assistant", "content": first}]
    turns += [{"role": role.lower(), "content": text} for role, text in zip(rest[::2], rest[1::2], strict=True)]
    return tuple(turns)


def prompt_of_turns(turns: Sequence[Message]) -> Text:
    """A prompt of one user's turn as text, so that it is the same comparison as elsewhere."""
    if len(turns) == 1 and turns[0]["role"] == "user":
        return str(turns[0]["content"])
    return tuple({"role": turn["role"], "content": turn["content"]} for turn in turns)


def turns_of_prompt(prompt: Text) -> list[dict[str, Any]]:
    """A prompt as turns."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(turn) for turn in prompt]


def text_in(row: Row, name: str) -> str:
    """A column that must hold text.

    Raises:
        UnfitError: it does not.
    """
    value = row.get(name)
    if not isinstance(value, str):
        raise UnfitError(f"no text in {name!r}")
    return value


def single_source(names: Sequence[str]) -> str:
    """Who wrote an answer, where a format has one name for it; the first by alphabet where several gave the same text."""
    if not names:
        raise UnfitError("an answer whose writer is not known")
    return min(names)
