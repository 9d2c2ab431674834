"""The content of one chat turn: its text, reasoning and tool calls, and whether it is trained on. Never imports torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from exptilt.data.problems import RowError

Message = Mapping[str, Any]
"""One chat turn: `role`, `content`, and what the template understands besides (`tool_calls`, `name`)."""

REASONING = ("reasoning_content", "reasoning", "thinking")
"""Keys under which data sets and chat templates keep what the assistant thought before it answered."""
MEDIA = ("image", "images", "video", "videos", "audio", "audios")
"""Keys of what is no text."""
SWITCHES = ("weight", "train", "training", "trainable", "loss", "loss_scale", "loss_mask")
"""Keys that say whether a turn is trained on: OpenAI's, Axolotl's two, another of that kind, ms-swift's two, verl's."""
OFF_SWITCH = "masked"
"""torchtune's key, which says that a turn is not trained on."""
_UNCLEAR = ("mask", "train_detail", "training_detail", "loss_weight")
"""Keys of which nobody can say what a value means, or that switch parts of a turn."""


def content_of(turn: Message) -> str:
    """The text of a turn; parts of text are joined.

    Raises:
        RowError: where a part is a picture or anything else that is no text.
    """
    content = turn.get("content")
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, Sequence):
        raise RowError("wrong_type", f"the content of a turn must be text, got {type(content).__name__}")
    return "".join(_text_of(part) for part in content)


def _text_of(part: Any) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type", "text") if isinstance(part, Mapping) else type(part).__name__
    if kind != "text" or not isinstance(part.get("text"), str):
        raise RowError("not_text", f"a turn holds a part of type {kind!r}; only text can be trained on here")
    return str(part["text"])


def reasoning_of(turn: Message) -> str:
    """The assistant's reasoning, if the turn keeps it apart from its content."""
    return next((reasoning for key in REASONING if isinstance(reasoning := turn.get(key), str) and reasoning), "")


def calls_of(turn: Message) -> list[dict[str, Any]]:
    """The tool calls of a turn, each as `name` and `arguments`, with arguments as values instead of JSON text.

    An entry that is no call counts as its own name here, so that rows can be compared; `for_template` refuses it.

    Example:
        >>> call = {"type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
        >>> calls_of({"role": "assistant", "content": "", "tool_calls": [call]})
        [{'name': 'add', 'arguments': {'a': 1}}]
    """
    calls = [call.get("function", call) if isinstance(call, Mapping) else call for call in _raw_calls(turn)]
    return [
        {"name": str(call.get("name", "")), "arguments": decoded(call.get("arguments"))}
        if isinstance(call, Mapping)
        else {"name": str(call), "arguments": None}
        for call in calls
    ]


def _raw_calls(turn: Message) -> list[Any]:
    calls = decoded(turn.get("tool_calls")) or []
    old = turn.get("function_call")
    is_list = isinstance(calls, Sequence) and not isinstance(calls, str)
    return [*(calls if is_list else [calls]), *([{"type": "function", "function": old}] if old else [])]


def decoded(value: Any) -> Any:
    """Decode JSON text of an object or a list to its value; any other value stays.

    The arguments of a call are JSON text by OpenAI's specification, and values by that of chat templates, which would
    write the text as a string inside quotes. Text that is no JSON, which a rejected call may well be, stays text.
    """
    if not isinstance(value, str) or not value.strip().startswith(("{", "[")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def is_trained(turn: Message) -> bool:
    """Tell whether an assistant's turn counts: yes, unless it has `weight: 0`, `train: false` or the like.

    Raises:
        RowError: where a switch is neither on nor off, such as a weight of 0.5, or a key may be a switch or not.
    """
    unclear = next((key for key in _UNCLEAR if turn.get(key) is not None), None)
    if unclear is not None:
        raise RowError("bad_value", f"{unclear!r} of a turn is not read, and may say what is trained; write `train`")
    if _switched(turn, OFF_SWITCH):
        return False
    return all(_switched(turn, key) is not False for key in SWITCHES)


def _switched(turn: Message, key: str) -> bool | None:
    value = turn.get(key)
    if isinstance(value, str):
        value = {"true": True, "false": False, "1": True, "0": False}.get(value.strip().lower(), value)
    if value is None:
        return None
    if isinstance(value, str) or value not in (0, 1):
        raise RowError("bad_value", f"{key!r} of a turn must be 0 or 1 (true or false), got {turn[key]!r}")
    return bool(value)


def said_by(turn: Message) -> str:
    """All text of a turn joined: reasoning, content and calls."""
    calls = [f"{call['name']}({json.dumps(call['arguments'], sort_keys=True, default=str)})" for call in calls_of(turn)]
    return "\n".join(part for part in (reasoning_of(turn), content_of(turn), *calls) if part)


def for_template(turn: Message, tools: Sequence[Any] = (), *, arguments_as_text: bool = False) -> dict[str, Any]:
    """Convert a turn to the form that chat templates expect.

    Switches are taken out, reasoning stands under every name that templates read, a `function_call` of OpenAI's first
    form is a tool call, and arguments are values, or JSON text for the templates that were written for text.

    Raises:
        RowError: where a part of the content is no text, or a call has no name.
    """
    gone = {*SWITCHES, OFF_SWITCH, "function_call", "tool_calls"}
    converted: dict[str, Any] = {key: value for key, value in turn.items() if key not in gone and value is not None}
    converted["content"] = content_of(turn)
    if reasoning := reasoning_of(turn):
        converted |= dict.fromkeys(REASONING, reasoning)
    calls = _raw_calls(turn)
    if calls:
        converted["tool_calls"] = [_call(call, tools, arguments_as_text) for call in calls]
    return converted


def _call(call: Any, tools: Sequence[Any], arguments_as_text: bool) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RowError("wrong_type", f"a tool call must be an object with a name and arguments, got {str(call)[:60]!r}")
    arguments = decoded(function.get("arguments"))
    if isinstance(arguments, Mapping) and not isinstance(function.get("arguments"), str):
        arguments = _declared(arguments, str(function.get("name", "")), tools)
    if arguments_as_text and not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False, default=str)
    written = {**function, **({} if arguments is None else {"arguments": arguments})}
    return {**call, "function": written} if "function" in call else written


def _declared(arguments: Message, name: str, tools: Sequence[Any]) -> dict[str, Any]:
    """Remove nulls under names that the tool lacks: they come from another tool, added to make one table of all."""
    tool = next((tool for tool in tools if tool_name(tool) == name), None)
    known = _under(_under(tool.get("function", tool), "parameters"), "properties") if tool is not None else None
    return {key: value for key, value in arguments.items() if value is not None or known is None or key in known}


def tool_name(tool: Any) -> str | None:
    """The declared name of a tool; None if it has none, like text and tools of another form."""
    function = tool.get("function", tool) if isinstance(tool, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    return name if isinstance(name, str) else None


def _under(value: Any, key: str) -> Mapping[str, Any]:
    inner = value.get(key) if isinstance(value, Mapping) else None
    return inner if isinstance(inner, Mapping) else {}


def tools_of(value: Any) -> list[Any]:
    """Convert tools to the form that templates expect: JSON text to values, without nulls that no JSON schema knows.

    Example:
        >>> tools_of(['{"name": "f", "parameters": {"properties": {"a": {"default": null, "enum": null}, "b": null}}}'])
        [{'name': 'f', 'parameters': {'properties': {'a': {'default': None}}}}]
    """
    tools = decoded(value)
    if not isinstance(tools, Sequence) or isinstance(tools, str):
        raise RowError("wrong_type", "tools must be a list of tools")
    return [_schema(decoded(tool)) for tool in tools]


def _schema(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _schema(child) for key, child in value.items() if child is not None or key in ("default", "const")}
    return [_schema(child) if child is not None else None for child in value] if isinstance(value, list) else value


def without_added_nulls(row: Mapping[str, Any]) -> dict[str, Any]:
    """Remove the nulls inside the values of a row that an Arrow table has added.

    Arrow has one schema for all rows, so an object gets every key that any row's object has there, as null. Columns
    themselves stay, so that a missing value can be told.

    Example:
        >>> without_added_nulls({"id": None, "tools": [{"name": "f", "unit": None}]})
        {'id': None, 'tools': [{'name': 'f'}]}
    """
    return {key: _bare(value) for key, value in row.items()}


def _bare(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _bare(child) for key, child in value.items() if child is not None}
    return [_bare(child) for child in value] if isinstance(value, list) else value
