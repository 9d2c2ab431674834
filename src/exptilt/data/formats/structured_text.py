"""Lists and objects that were written as text: JSON, or what Python and pandas print of them."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

from exptilt.data.problems import RowError

_NO_COMMA = re.compile(r"\}\s*\n\s*\{")
"""Between two objects of an array as numpy prints it. No text inside has a line end, as Python writes those as an escape."""
_BEGINS_LIKE_TURNS = re.compile(r"""\s*\[?\s*\{\s*["'](?:role|from|content|value)["']\s*:""")


def structure_in(text: str) -> Any:
    """The list or object that a text spells; None where it spells none.

    Example:
        >>> structure_in("[{'role': 'user', 'content': 'Hi'}]"), structure_in('{"a": null}'), structure_in("[sic]")
        ([{'role': 'user', 'content': 'Hi'}], {'a': None}, None)
    """
    stripped = text.strip()
    if stripped[:1] + stripped[-1:] not in ("[]", "{}"):
        return None
    found = _json(stripped)
    if found is None:
        found = _python(stripped)
    if found is None:
        found = _python(_NO_COMMA.sub("}, {", stripped))
    return found if isinstance(found, list | dict) else None


def turns_in(text: str, name: str) -> list[Any] | None:
    """The turns that a text spells; None where it is plain text.

    Raises:
        RowError: if it begins like turns and cannot be read to its end.
    """
    if not _BEGINS_LIKE_TURNS.match(text):
        return None
    found = structure_in(text)
    if found is None:
        if _spells_a_role(text):
            raise RowError("wrong_type", f"{name} begins like a list of turns, but is neither JSON nor Python")
        return None
    listed = found if isinstance(found, list) else [found]
    return listed if listed and all(_is_turn(each) for each in listed) else None


def _spells_a_role(text: str) -> bool:
    return re.search(r"""["'](?:user|human|assistant|gpt|system)["']""", text) is not None


def _is_turn(value: Any) -> bool:
    return isinstance(value, Mapping) and (value.keys() >= {"role", "content"} or value.keys() >= {"from", "value"})


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _python(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
