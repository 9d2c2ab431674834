"""One column of a row, read strictly: the right type or a `RowError` that names the column."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from exptilt.data.formats.structured_text import structure_in, turns_in
from exptilt.data.problems import RowError
from exptilt.data.records import Message, Text
from exptilt.wording import SURE, nearest

ROLES = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
"""Role names in use, and what each is here."""
_MOST = 1e30
"""Numbers beyond it are mistakes; sums and differences of those within it are finite in single precision."""
MEDIA = ("image", "images", "video", "videos", "audio", "audios")
"""Columns of what is no text."""
_YES = {"true", "1", "yes", "chosen", "desirable", "good"}
_NO = {"false", "0", "-1", "no", "rejected", "undesirable", "bad"}


def need(row: Mapping[str, Any], column: str) -> Any:
    """The value of a required column."""
    value = row.get(column)
    if value is None and column in row:
        raise RowError("missing_column", f"column {column!r} is null")
    if value is None:
        near = nearest(column, (name for name in row if isinstance(name, str)), SURE)
        instead = f"; the row has {near!r}" if near else ""
        raise RowError("missing_column", f"column {column!r} is missing{instead}")
    return value


def text(value: Any, name: str) -> str:
    """Check that a value is a string that every tokenizer can read, and return it."""
    if isinstance(value, bytes):  # what a table held where text was announced
        raise RowError("invalid_utf8", f"{name} {_undecodable(value)}")
    if not isinstance(value, str):
        raise RowError("wrong_type", f"{name} must be text, got {_kind(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RowError("wrong_type", f"{name} holds half of a surrogate pair at character {error.start + 1}") from None
    return value


def content(value: Any, name: str) -> Text:
    """Read text or a list of turns; a single turn counts as a list, and turns may be spelled as JSON or Python.

    An object without a role that holds one text, such as `{"text": ..., "model": ...}`, is that text.
    """
    if isinstance(value, Mapping) and not value.keys() & {"role", "from"}:
        value = _only_text(value, name)
    if isinstance(value, str):
        spelled = turns_in(value, name)
        return text(value, name) if spelled is None else turns(spelled, name)
    if isinstance(value, bytes):
        return text(value, name)
    if not isinstance(value, Mapping | Sequence):
        raise RowError("wrong_type", f"{name} must be text or a list of turns, got {_kind(value)}")
    return turns([value] if isinstance(value, Mapping) else value, name)


def _only_text(value: Mapping[str, Any], name: str) -> str:
    held = [key for key in ("text", "content", *COMPLETIONS) if isinstance(value.get(key), str)]
    if len(held) != 1:
        raise RowError(
            "wrong_type", f"{name} must be text or turns, got an object with {', '.join(map(str, value))}"[:200]
        )
    return str(value[held[0]])


def turns(value: Any, name: str) -> tuple[Message, ...]:
    """Read a list of chat turns: `role`/`content`, `from`/`value`, or `input`/`output` for two turns each."""
    if isinstance(value, str):
        value = turns_in(value, name) or value
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
        raise RowError("wrong_type", f"{name} must be a list of turns with at least one in it, got {_kind(value)}")
    messages: list[Message] = []
    for position, item in enumerate(value):
        if isinstance(item, Mapping) and item.keys() >= {"input", "output"}:
            messages += exchange((item["input"], item["output"]), f"{name}[{position}]")
        else:
            messages.append(_turn(item, f"{name}[{position}]"))
    return tuple(messages)


def exchange(value: Any, name: str) -> tuple[Message, Message]:
    """Convert a question and its answer to two turns."""
    asked, answered = items(value, name, 2)
    return (
        {"role": "user", "content": text(asked, f"the question of {name}")},
        {"role": "assistant", "content": text(answered, f"the answer of {name}")},
    )


def _turn(item: Any, name: str) -> Message:
    if not isinstance(item, Mapping):
        raise RowError("wrong_type", f"{name} must be a turn with role and content, got {_kind(item)}")
    spoken = text(item.get("role", item.get("from")), f"the role of {name}")
    role = ROLES.get(spoken.lower())
    if role is None:
        raise RowError("bad_roles", f"{name} has the unknown role {spoken!r}; known are {', '.join(ROLES)}")
    extra = {
        key: field
        for key, field in item.items()
        if key not in ("role", "from", "content", "value") and field is not None
    }
    turn_content = item.get("content", item.get("value"))
    if not turn_content and isinstance(extra.get("refusal"), str):  # OpenAI's key of an answer that refuses
        turn_content = extra.pop("refusal")
    if turn_content is None and extra.keys() & {"tool_calls", "function_call"}:
        turn_content = ""
    return {"role": role, "content": _said(turn_content, f"the content of {name}"), **extra}


def _said(value: Any, name: str) -> str:
    if not isinstance(value, Sequence) or isinstance(value, str):
        return text(value, name)
    parts = []
    for part in value:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind != "text":
            raise RowError("wrong_type", f"{name} holds a part of type {kind!r}; only text can be trained on here")
        parts.append(text(part.get("text"), name))
    return "".join(parts)


def refuse_media(row: Mapping[str, Any]) -> None:
    """Refuse a row with a picture, a video or a sound: without it the row would mean something else."""
    for name in MEDIA:
        value = row.get(name)
        if value is not None and (
            any(part is not None for part in value.values()) if isinstance(value, Mapping) else value
        ):
            raise RowError("not_text", f"column {name!r} is filled; only text can be trained on here")


def first_of(row: Mapping[str, Any], *columns: str) -> Any:
    """The value of the first of several columns that exists and is not null; one must."""
    column = next((name for name in columns if row.get(name) is not None), columns[0])
    return need(row, column)


def items(value: Any, name: str, least: int = 1) -> Sequence[Any]:
    """Read a list with a least number of values; it may be spelled as JSON or Python."""
    if isinstance(value, str):
        value = structure_in(value) or value
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or len(value) < least:
        several = "a list of at least two" if least == 2 else "a list that is not empty"
        raise RowError("wrong_type", f"{name} must be {several}, got {_kind(value)}")
    return value


def under(value: Any, name: str) -> Mapping[str, Any]:
    """Read an object with named values; it may be spelled as JSON or Python."""
    if isinstance(value, str):
        value = structure_in(value) or value
    if not isinstance(value, Mapping):
        raise RowError("wrong_type", f"{name} must be an object, got {_kind(value)}")
    return value


PROMPTS = ("prompt", "instruction", "question", "query")
"""Columns in use for what is asked."""
COMPLETIONS = ("completion", "response", "output", "answer")
"""Columns in use for the one completion of a row."""
_LEAVE_OUT = "name the one to leave out in data.ignore_columns"


def prompt_of(row: Mapping[str, Any]) -> Text:
    """Read the prompt from the row's column for it; the `input` or `context` of an instruction is appended."""
    if not any(row.get(name) is not None for name in PROMPTS):
        return content(need(row, "input" if row.get("input") is not None else "prompt"), "prompt")
    column = _only_one(row, PROMPTS, "what is asked")
    prompt = content(row[column], column)
    more = {name: row[name] for name in ("input", "context") if row.get(name)}
    if not more:
        return prompt
    name, value = next(iter(more.items()))
    if column != "instruction" or len(more) > 1 or not isinstance(prompt, str):
        raise RowError("bad_value", f"columns {column!r} and {name!r} both say what is asked; {_LEAVE_OUT}")
    return f"{prompt}\n\n{text(value, name)}" if text(value, name).strip() else prompt


def completion_of(row: Mapping[str, Any]) -> Text:
    """Read the single completion from the row's column for it."""
    column = _only_one(row, COMPLETIONS, "the completion")
    return content(need(row, column), column)


def _only_one(row: Mapping[str, Any], columns: Sequence[str], what: str) -> str:
    """The single one of several columns that the row has; the first if it has none."""
    filled = [name for name in columns if row.get(name) is not None and row[name] != ""]
    if len(filled) > 1 and any(row[name] != row[filled[0]] for name in filled[1:]):
        raise RowError(
            "bad_value",
            f"columns {filled[0]!r} and {filled[1]!r} both say {what}; {_LEAVE_OUT}",
        )
    return next((name for name in (*filled, *columns) if row.get(name) is not None), columns[0])


def section_of(row: Mapping[str, Any]) -> str | None:
    """The part of a benchmark that the row belongs to: the column `section`, a name or a number."""
    value = row.get("section")
    if value is None or isinstance(value, bool):
        return None
    section = f"{value:g}" if isinstance(value, int | float) else text(value, "section").strip()
    return section or None


def number(row: Mapping[str, Any], column: str, low: float = -math.inf, high: float = math.inf) -> float | None:
    """Read a finite number in [low, high], or None without the column; digits in text count (CSV)."""
    value = row.get(column)
    if value is None:
        return None
    return as_number(value, column, low, high)


def as_number(value: Any, name: str, low: float = -math.inf, high: float = math.inf) -> float:
    """Convert a value to a finite number in [low, high]."""
    try:
        result = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError, OverflowError):
        result = math.nan
    if not math.isfinite(result):
        raise RowError("wrong_type", f"{name} must be a finite number, got {str(value)[:40]!r}")
    if abs(result) > _MOST:
        raise RowError("bad_value", f"{name} must be at most {_MOST:g} in size, got {result:g}")
    if not low <= result <= high:
        raise RowError("bad_value", f"{name} must be in [{low:g}, {high:g}], got {result:g}")
    return result


def whole(value: Any, name: str, low: int, high: int = 2**31 - 1) -> int:
    """Convert a value to a whole number in [low, high]."""
    result = as_number(value, name)
    if result != int(result) or not low <= result <= high:
        raise RowError("bad_value", f"{name} must be a whole number from {low} to {high}, got {result:g}")
    return int(result)


def yes_or_no(row: Mapping[str, Any], column: str) -> bool:
    """Convert a label to a bool: true or false, 1 or 0, or a word in use for them."""
    value = need(row, column)
    word = str(int(value) if isinstance(value, bool | float) and value == value // 1 else value).strip().lower()
    if word not in _YES | _NO:
        raise RowError("wrong_type", f"column {column!r} must be true or false, got {str(value)[:40]!r}")
    return word in _YES


def _undecodable(value: bytes) -> str:
    try:
        value.decode()
    except UnicodeDecodeError as error:
        return f"is not valid UTF-8 at byte {error.start + 1}"
    return "must be text, got bytes"


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    kind = names.get(type(value), type(value).__name__)
    return f"an empty {kind.split()[-1]}" if kind == "a list" and not value else kind
