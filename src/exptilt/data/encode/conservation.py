"""The check that a row's content survives rendering: a template can leave out calls, results or reasoning silently."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from exptilt.data.formats.column_names import meaning_of
from exptilt.data.turns import (
    MEDIA,
    REASONING,
    Message,
    calls_of,
    content_of,
    is_trained,
    reasoning_of,
    tool_name,
    tools_of,
)

_END_OF_THOUGHT = "</think>"
_READ = ("role", "content", "tool_calls", "function_call")
_SHOWN = 40
"""Characters of lost content that a message shows."""


class Remaining:
    """A text in which content is searched; content that was found is removed, so that it is not found twice.

    Args:
        text: the rendered text.
        marks: special tokens, in whose spelling no content is looked for: the text `end` is not in `<|im_end|>`.
    """

    def __init__(self, text: str, marks: Sequence[str]) -> None:
        self._whole = text
        self._marks = [mark for mark in marks if mark and mark in text]
        for mark in self._marks:
            text = text.replace(mark, "\0")
        self._text = text

    def takes(self, content: str) -> bool:
        """Remove a text, as it is or as JSON writes it, and tell whether it was there."""
        if any(mark in content for mark in self._marks):
            return any(spelling in self._whole for spelling in _spellings(content))
        for spelling in _spellings(content):
            if spelling in self._text:
                self._text = self._text.replace(spelling, "\0", 1)
                return True
        return False

    def has(self, value: Any) -> bool:
        """Tell whether a name or a value of a call is there."""
        return any(spelling in self._text for spelling in _value_spellings(value))


def lost_of_prompt(turns: Sequence[Message], tools: Any, text: str, marks: Sequence[str]) -> Iterator[str]:
    """Content that a rendered prompt lacks, in words; many templates leave out reasoning of earlier turns on purpose."""
    remaining = Remaining(text, marks)
    contents = [(turn["role"], _answer(turn)) for turn in turns]
    for role, content in _longest_first(contents):
        if not remaining.takes(content):
            yield _named(f"text of the {role}'s turn in the prompt", content)
    for turn in turns:
        yield from _lost_calls(turn, remaining, " in the prompt")
        yield from _lost_media(turn)
    for tool in tools_of(tools) if tools else ():
        name = tool_name(tool)
        if name and not remaining.has(name):
            yield _named("tool", name)


def lost_of_turn(turn: Message, text: str, marks: Sequence[str]) -> Iterator[str]:
    """Content of a completion's turn that its text lacks, in words.

    Args:
        turn: a turn of any role; reasoning is only searched in turns that are trained on.
        text: the part of the completion that is this turn's, and for an assistant's turn the part that counts.
        marks: special tokens.
    """
    remaining = Remaining(text, marks)
    is_reply = turn["role"] == "assistant"
    parts = [("text" if is_reply else f"{turn['role']}'s text", content_of(turn).strip())]
    if is_reply and is_trained(turn):
        parts.append(("reasoning", reasoning_of(turn).strip()))
    for name, content in _longest_first(parts):
        if remaining.takes(content):
            continue
        inner = _thought_and_answer(content, is_trained(turn)) if is_reply else []
        for part, lost_text in _longest_first(inner) or [(name, content)]:
            if not (inner and remaining.takes(lost_text)):
                yield _named(part, lost_text)
    yield from _lost_calls(turn, remaining, "")
    yield from _lost_media(turn)
    if is_reply and is_trained(turn):
        yield from _lost_reasons(turn, remaining)


def _longest_first(parts: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Texts sorted by length, the longest first, because a short one may be part of it; empty ones are left out."""
    return sorted((part for part in parts if part[1]), key=lambda part: -len(part[1]))


def _thought_and_answer(content: str, with_thought: bool) -> list[tuple[str, str]]:
    """The texts before and behind the end of a think block; empty without a think block."""
    thought, end, answer = content.rpartition(_END_OF_THOUGHT)
    if not end:
        return []
    return [("reasoning", thought.replace("<think>", "").strip() if with_thought else ""), ("text", answer.strip())]


def _answer(turn: Message) -> str:
    """The content of a turn behind its reasoning."""
    text = content_of(turn)
    behind = text.rpartition(_END_OF_THOUGHT)[2] if turn["role"] == "assistant" else text
    return behind.strip()


def _lost_calls(turn: Message, remaining: Remaining, where: str) -> Iterator[str]:
    for call in calls_of(turn):
        if not remaining.has(call["name"]):
            yield _named(f"tool call{where}", call["name"])
            continue
        missing = next((value for value in _leaves(call["arguments"]) if not remaining.has(value)), None)
        if missing is not None:
            yield _named(f"argument of the tool call {call['name']}{where}", str(missing))


def _lost_media(turn: Message) -> Iterator[str]:
    """Pictures and other media beside the text of a turn; only text is trained on here."""
    return (_named(f"{key} of a turn", str(turn[key])) for key in MEDIA if turn.get(key))


def _lost_reasons(turn: Message, remaining: Remaining) -> Iterator[str]:
    """Reasons under names that are not read, such as `thoughts`, which the template does not write either."""
    for key, value in turn.items():
        if key in (*REASONING, *_READ) or meaning_of(key, value) != "a reason":
            continue
        if not (isinstance(value, str) and remaining.takes(value.strip())):
            yield _named(f"{key!r} of a turn", str(value))


def _leaves(value: Any) -> Iterator[Any]:
    """The names and values inside the arguments of a call."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield key
            yield from _leaves(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _leaves(inner)
    elif value is not None:
        yield value


def _spellings(content: str) -> Iterator[str]:
    """Spellings of a text: as it is, and as JSON writes it."""
    yield content
    for ascii_only in (False, True):
        written = json.dumps(content, ensure_ascii=ascii_only)[1:-1]
        if written != content:
            yield written


def _value_spellings(value: Any) -> Iterator[str]:
    """Spellings of a value: as JSON and as Python write it."""
    if isinstance(value, str):
        yield from _spellings(value)
        yield from _spellings(value.strip())
    else:
        yield json.dumps(value, default=str)
        yield str(value)


def _named(what: str, content: str) -> str:
    line = " ".join(content.split())
    return f"{what} {line[:_SHOWN]!r}{'...' if len(line) > _SHOWN else ''}"
