"""Chatbot Arena's votes, and MT-Bench's human ones, which have the same form: two conversations and a winner."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from exptilt.data.formats.dialogues import shared_turns
from exptilt.preferences import Comparison, Outcome
from exptilt.votes.exchange.foreign_votes import (
    ForeignVote,
    Row,
    UnfitError,
    prompt_of_turns,
    single_source,
    text_of_turns,
    turns_of_prompt,
    turns_of_text,
)
from exptilt.votes.vote_records import Rater, Vote

COLUMNS = {"conversation_a", "conversation_b", "winner"}
TEXT_COLUMNS = {"prompt", "response_a", "response_b", "winner_model_a", "winner_model_b", "winner_tie"}
"""Of the 55k set, where each turn is an item of a JSON list."""
_WINNERS: dict[str, Outcome] = {
    "model_a": "first", "model_b": "second", "tie": "tie", "tie (bothbad)": "both_bad", "both_bad": "both_bad",
    "bothbad": "both_bad",
}  # fmt: skip
_WRITTEN = {"first": "model_a", "second": "model_b", "tie": "tie", "both_bad": "tie (bothbad)"}
UNNAMED = "arena"
"""The rater of votes without a name: whoever votes in the arena."""


def arena_vote(row: Row) -> ForeignVote:
    """A row with `conversation_a`, `conversation_b` and `winner` as a vote; both conversations share their beginning."""
    sides = [_conversation(row[name]) for name in ("conversation_a", "conversation_b")]
    turn = row.get("turn")
    if isinstance(turn, int) and turn > 0:  # MT-Bench shows two turns where the vote is on the first
        sides = [side[: 2 * turn] for side in sides]
    winner = str(row["winner"]).strip().lower()
    if winner not in _WINNERS:
        raise UnfitError(f"the winner {winner[:40]!r}")
    return _vote(sides, row, _WINNERS[winner])


def arena_text_vote(row: Row) -> ForeignVote:
    """A row of the 55k set as a vote."""
    asked, *said = (_items(row[name], name) for name in ("prompt", "response_a", "response_b"))
    marks = [row[name] for name in ("winner_model_a", "winner_model_b", "winner_tie")]
    if sorted(marks) != [0, 0, 1]:
        raise UnfitError("not exactly one winner")
    sides = [_interleaved(asked, answers) for answers in said]
    outcomes: tuple[Outcome, ...] = ("first", "second", "tie")
    return _vote(sides, row, outcomes[marks.index(1)])


def arena_row(
    comparison: Comparison, vote: Vote, sources: Mapping[int, Sequence[str]], reply: str = ""
) -> dict[str, Any]:
    """A vote as a row of the form with two conversations.

    Raises:
        UnfitError: it has no place there.
    """
    if vote.outcome not in _WRITTEN or len(vote.order) != 2:
        raise UnfitError("a ranking" if vote.outcome is None else f"a vote that is {vote.outcome}")
    asked = turns_of_prompt(comparison.prompt)
    row: dict[str, Any] = {"winner": _WRITTEN[vote.outcome], "judge": vote.rater.name}
    for side, position in zip("ab", vote.order, strict=True):
        row[f"model_{side}"] = single_source(sources.get(position, []))
        row[f"conversation_{side}"] = asked + [dict(turn) for turn in turns_of_text(comparison.answers[position])]
    return row


def _vote(sides: Sequence[Sequence[Any]], row: Row, outcome: Outcome) -> ForeignVote:
    shared = shared_turns(*map(tuple, sides))
    if not shared:
        raise UnfitError("two conversations that do not begin with the same prompt")
    answers = [text_of_turns(side[len(shared) :]) for side in sides]
    named = row.get("judge")
    kind = "judge" if isinstance(named, list) or str(named).endswith("_pair") else "person"
    name = str(named[0] if isinstance(named, list) and named else named or UNNAMED)
    return ForeignVote(
        prompt=prompt_of_turns(shared),
        answers=(answers[0], answers[1]),
        sources=(str(row.get("model_a") or "model_a"), str(row.get("model_b") or "model_b")),
        rater=Rater(kind, name, "MT-Bench" if kind == "judge" else ""),  # type: ignore[arg-type]
        outcome=outcome,
    )


def _conversation(value: Any) -> list[Any]:
    turns = value
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, Mapping) for turn in turns):
        raise UnfitError("a conversation that is no list of turns")
    if not all(isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str) for turn in turns):
        raise UnfitError("a turn that is no text")
    return [{"role": turn["role"], "content": turn["content"]} for turn in turns]


def _items(value: Any, name: str) -> list[str]:
    try:
        items = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        items = None
    if not isinstance(items, list) or not items or not all(isinstance(item, str) for item in items):
        raise UnfitError(f"{name} that is no list of texts")
    return items


def _interleaved(asked: Sequence[str], said: Sequence[str]) -> list[Any]:
    if len(asked) != len(said):
        raise UnfitError("more prompts than responses")
    turns = []
    for question, answer in zip(asked, said, strict=True):
        turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return turns
