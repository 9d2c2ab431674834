"""Votes that people gave elsewhere: Argilla, Label Studio, arenas (LMSYS, FastChat's log, Kaggle), and our own export.

A file is read row by row; a row becomes one vote for each person who answered it, and what is no vote on two or more answers
is counted with its reason. The nonce of an imported vote is a digest of what it says, so a file imported twice counts once.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from exptilt.data.problems import RowError
from exptilt.data.read.sources import read_rows
from exptilt.data.records import Text, words_of
from exptilt.errors import DataError
from exptilt.preferences import Comparison, Outcome
from exptilt.votes.vote_records import Rater, Vote, canonical_order

IMPORTED = "import-"
"""Nonces of imported votes begin with this; their time is that of the import, and says nothing of a pace."""
Row = Mapping[str, Any]
_ANSWER = re.compile(
    r"(text|response|answer|completion|output|generation|candidate|option)[ _-]?(\d+|[a-g])", re.IGNORECASE
)
_SIDES = re.compile(r"(left|right)[ _-]?(text|response|answer)?|(?:model|response|answer)_?(left|right)", re.IGNORECASE)
_PROMPTS = ("prompt", "instruction", "question", "query", "input", "context", "chat", "conversation", "messages")
_TIES = ("tie", "tied", "equal", "same", "both", "both_good", "draw")
_BOTH_BAD = ("both_bad", "bothbad", "tie (bothbad)", "neither", "both bad", "tie_bothbad")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Said:
    """One person's answer, in the order of `answers`."""

    prompt: Text
    answers: tuple[str, ...]
    sources: tuple[str, ...] = ()
    person: str
    outcome: Outcome | None = None
    ranking: tuple[int, ...] | None = None
    question: str = "better"
    note: str = ""
    key: str = ""


class _NoVote(Exception):
    """A row that holds no vote, with the reason."""


@dataclass(frozen=True, slots=True)
class ToolVotes:
    """Votes of a file, for `VoteStore.add_all`."""

    tool: str
    rows: list[tuple[Comparison, Vote, tuple[str, ...]]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def read_tool_votes(source: str) -> ToolVotes:
    """Read a file of votes; its tool is told by the first row's columns.

    Raises:
        DataError: the file cannot be read, or its rows are of none of the tools.
    """
    found: ToolVotes | None = None
    read: Callable[[Row], Iterator[_Said]] | None = None
    for place, row in read_rows(source):
        if isinstance(row, RowError):
            raise DataError(f"{place}: {row}")
        if found is None or read is None:
            tool, read = _tool(row, place)
            found = ToolVotes(tool)
        try:
            for said in read(row):
                found.rows.append(_stored(found.tool, said))
        except _NoVote as reason:
            found.left_out[str(reason)] += 1
    if found is None or not found.rows:
        why = "; ".join(f"{count:,} with {reason}" for reason, count in found.left_out.items()) if found else ""
        raise DataError(f"{source}: holds no vote on two answers" + (f" ({why})" if why else ""))
    return found


def _tool(row: Row, place: str) -> tuple[str, Callable[[Row], Iterator[_Said]]]:
    if "annotations" in row and "data" in row:
        return "Label Studio", _label_studio
    if "responses" in row or any(name.endswith(".responses") for name in row):
        return "Argilla", _argilla
    if {"comparison", "answers", "rater"} <= row.keys():
        return "exptilt", _own
    if {"model_a", "model_b"} <= row.keys() or {"models", "states", "type"} <= row.keys():
        return "arena", _arena
    raise DataError(
        f"{place}: is no vote of Argilla, Label Studio, an arena or exptilt (columns: {', '.join(row)[:120]})"
    )


def _stored(tool: str, said: _Said) -> tuple[Comparison, Vote, tuple[str, ...]]:
    comparison = Comparison(said.prompt, said.answers)
    content = [tool, comparison.id, said.person, said.question, said.outcome, said.ranking, said.answers, said.key]
    digest = hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()
    vote = Vote(
        comparison=comparison.id,
        rater=Rater("person", said.person),
        order=canonical_order(comparison),
        outcome=said.outcome,
        ranking=said.ranking,
        question=said.question,
        note=said.note,
        nonce=IMPORTED + digest[:40],
    )
    return comparison, vote, said.sources


def _label_studio(row: Row) -> Iterator[_Said]:
    data = row["data"]
    if not isinstance(data, Mapping):
        raise _NoVote("no data")
    prompt, answers = _prompt_of(data), _answers_of(data)
    some = False
    for annotation in row["annotations"] or ():
        if annotation.get("was_cancelled") or annotation.get("skipped"):
            continue
        for result in annotation.get("result") or ():
            value = result.get("value") or {}
            chosen = value.get("selected") or next(iter(value.get("choices") or ()), None)
            if not isinstance(chosen, str):
                continue
            some = True
            who = annotation.get("completed_by")
            name = (who.get("email") or who.get("id")) if isinstance(who, Mapping) else who
            yield _Said(
                prompt=prompt,
                answers=tuple(answers.values()),
                person=f"{'annotator ' if isinstance(name, int) else ''}{name or 'annotator'}",
                outcome=_outcome(chosen, list(answers)),
                key=str(annotation.get("id", "")),
            )
    if not some:
        raise _NoVote("no submitted choice")


def _argilla(row: Row) -> Iterator[_Said]:
    fields = row["fields"] if isinstance(row.get("fields"), Mapping) else row
    prompt, answers = _prompt_of(fields), _answers_of(fields)
    some = False
    for person, question, value, status, at in _argilla_responses(row):
        if status not in ("submitted", None):
            continue
        outcome, ranking = None, None
        if isinstance(value, str):
            outcome = _outcome(value, list(answers))
        elif isinstance(value, Sequence) and all(isinstance(one, Mapping) for one in value) and value:
            ranks = {str(one.get("value")): one.get("rank") for one in value}
            if not all(isinstance(ranks.get(name), int) for name in answers):
                continue
            ranking = tuple(ranks[name] for name in answers)
        else:
            continue  # a rating or a text, which is no comparison
        some = True
        yield _Said(
            prompt=prompt,
            answers=tuple(answers.values()),
            person=person,
            outcome=outcome,
            ranking=ranking,
            question=question,
            key=f"{row.get('id', '')} {at}",
        )
    if not some:
        raise _NoVote("no submitted choice or ranking")


def _argilla_responses(row: Row) -> Iterator[tuple[str, str, Any, str | None, int]]:
    """(person, question, value, status, number) of Argilla 2's records, its flat tables, and Argilla 1's feedback."""
    responses = row.get("responses")
    if isinstance(responses, Mapping):
        for question, given in responses.items():
            for at, one in enumerate(given or ()):
                yield str(one.get("user_id")), question, one.get("value"), _status(one), at
    elif isinstance(responses, Sequence):
        for at, one in enumerate(responses):
            for question, value in (one.get("values") or {}).items():
                yield str(one.get("user_id")), question, value.get("value"), _status(one), at
    for name, values in row.items():
        if name.endswith(".responses"):
            people = row.get(f"{name}.users") or [None] * len(values or ())
            states = row.get(f"{name}.status") or ["submitted"] * len(values or ())
            for at, (value, who, status) in enumerate(zip(values or (), people, states, strict=False)):
                yield str(who or "annotator"), name.removesuffix(".responses"), value, str(status), at


def _status(response: Row) -> str | None:
    status = response.get("status")
    return None if status is None else str(getattr(status, "value", status))


def _arena(row: Row) -> Iterator[_Said]:
    if "states" in row:
        kind = {"leftvote": "first", "rightvote": "second", "tievote": "tie", "bothbad_vote": "both_bad"}
        outcome = kind.get(str(row["type"]))
        sides = [_fastchat_turns(state) for state in row["states"]]
        models = tuple(str(name) for name in row["models"])
    else:
        outcome = _arena_winner(row)
        sides = [_arena_turns(row, letter) for letter in ("a", "b")]
        models = (str(row["model_a"]), str(row["model_b"]))
    if outcome is None:
        raise _NoVote("no winner")
    prompt, answers = _split(sides)
    who = (
        row.get("judge") or row.get("user_id") or row.get("evaluation_session_id") or _visitor(row.get("ip")) or "arena"
    )
    key = row.get("question_id") or row.get("id") or row.get("tstamp") or ""
    yield _Said(prompt=prompt, answers=answers, sources=models, person=str(who), outcome=outcome, key=str(key))  # type: ignore[arg-type]


def _visitor(address: Any) -> str:
    """A name for an address, which itself is nobody's business."""
    return f"visitor-{hashlib.sha256(str(address).encode()).hexdigest()[:8]}" if address else ""


def _arena_winner(row: Row) -> str | None:
    if "winner" in row:
        return _outcome(str(row["winner"]), ["model_a", "model_b"])
    marks = {"winner_model_a": "first", "winner_model_b": "second", "winner_tie": "tie"}
    return next((outcome for name, outcome in marks.items() if row.get(name) in (1, True, "1")), None)


def _arena_turns(row: Row, letter: str) -> list[dict[str, str]]:
    talk = row.get(f"conversation_{letter}")
    if isinstance(talk, Sequence) and not isinstance(talk, str):
        return [{"role": str(turn.get("role")), "content": _plain(turn.get("content"))} for turn in talk]
    asked, said = _listed(row.get("prompt")), _listed(row.get(f"response_{letter}"))
    turns = []
    for question, answer in zip(asked, said, strict=False):
        turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return turns


def _fastchat_turns(state: Row) -> list[dict[str, str]]:
    messages = state.get("messages") or ()
    offset = int(state.get("offset") or 0)
    roles = state.get("roles") or ["USER", "ASSISTANT"]
    return [
        {"role": "user" if who in (roles[0], "user", "USER") else "assistant", "content": str(text or "")}
        for who, text in messages[offset:]
    ]


def _split(sides: Sequence[list[dict[str, str]]]) -> tuple[Text, tuple[str, ...]]:
    """The turns that both sides share as the prompt, and the rest of each as an answer."""
    if any(not side or side[-1]["role"] != "assistant" for side in sides):
        raise _NoVote("a side without an answer")
    shared = 0
    while all(shared < len(side) - 1 for side in sides) and sides[0][shared] == sides[1][shared]:
        shared += 1
    prompt = tuple(sides[0][:shared])
    if not prompt:
        raise _NoVote("two sides that were asked different things")
    rests = [side[shared:] for side in sides]
    answers = tuple(
        rest[0]["content"] if len(rest) == 1 else "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in rest)
        for rest in rests
    )
    return prompt[0]["content"] if len(prompt) == 1 and prompt[0]["role"] == "user" else prompt, answers


def _own(row: Row) -> Iterator[_Said]:
    if row.get("kind") == "judge":
        raise _NoVote("a judge's vote, which has a store of its own")
    prompt = row["prompt"] if isinstance(row["prompt"], str) else tuple(row["prompt"])
    sources = [names[0] for names in row.get("sources") or () if names]
    yield _Said(
        prompt=prompt,
        answers=tuple(row["answers"]),
        sources=tuple(sources) if len(sources) == len(row["answers"]) else (),
        person=str(row["rater"]),
        outcome=row.get("outcome"),
        ranking=tuple(row["ranking"]) if row.get("ranking") else None,
        question=str(row.get("question", "better")),
        note=str(row.get("note", "")),
        key=str(row.get("nonce", "")),
    )


def _outcome(chosen: str, names: Sequence[str]) -> Outcome:
    """What a choice among named answers means."""
    word = chosen.strip().casefold()
    if word in _BOTH_BAD:
        return "both_bad"
    if word in _TIES:
        return "tie"
    folded = [name.casefold() for name in names]
    ends = [re.sub(r".*[ _-]|.*?(?=\d+$)", "", name) for name in folded]
    for at, words in enumerate(
        (("left", "first", "a", "1", "model_a", "model a"), ("right", "second", "b", "2", "model_b", "model b"))
    ):
        if word == folded[at] or word in words or re.sub(r".*[ _-]", "", word) == ends[at]:
            return "first" if at == 0 else "second"
    raise _NoVote(f"the choice {chosen!r}, which names no answer")


def _prompt_of(fields: Row) -> Text:
    for name in _PROMPTS:
        value = fields.get(name)
        if isinstance(value, str):
            return value
        if isinstance(value, Sequence) and value and all(isinstance(turn, Mapping) for turn in value):
            return tuple({"role": turn.get("role"), "content": _plain(turn.get("content"))} for turn in value)
    raise _NoVote("no prompt")


def _answers_of(fields: Row) -> dict[str, str]:
    found = {}
    for name, value in fields.items():
        if (_ANSWER.fullmatch(name) or _SIDES.fullmatch(name)) and isinstance(value, str | Sequence):
            text = value if isinstance(value, str) else words_of(tuple(value))
            found[name] = text
    if len(found) < 2:
        raise _NoVote("fewer than two answers")
    return dict(sorted(found.items()))


def _plain(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(str(part.get("text") or "") for part in content or () if isinstance(part, Mapping))


def _listed(value: Any) -> list[str]:
    """Kaggle's prompts and responses are lists written as JSON."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return [value]
    return [str(one or "") for one in value] if isinstance(value, Sequence) and not isinstance(value, str) else []
