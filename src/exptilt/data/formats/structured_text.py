"""Lists and objects that were written as text, in JSON or in the notation of Python and pandas."""

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
    """Parse the list or object that a text spells; None if it spells none.

    Example:
        >>> structure_in("[{'role': 'user', 'content': 'Hi'}]"), structure_in('{"a": null}'), structure_in("[sic]")
        ([{'role': 'user', 'content': 'Hi'}], {'a': None}, None)
    """
    stripped = text.strip()
    if stripped[:1] + stripped[-1:] not in ("[]", "{}"):
        return None
    value = _json(stripped)
    if value is None:
        value = _python(stripped)
    if value is None:
        value = _python(_NO_COMMA.sub("}, {", stripped))
    return value if isinstance(value, list | dict) else None


def turns_in(text: str, name: str) -> list[Any] | None:
    """Parse the turns that a text spells; None for plain text.

    Raises:
        RowError: if it begins like turns and cannot be read to its end.
    """
    if not _BEGINS_LIKE_TURNS.match(text):
        return None
    structure = structure_in(text)
    if structure is None:
        if _spells_a_role(text):
            raise RowError("wrong_type", f"{name} begins like a list of turns, but is neither JSON nor Python")
        return None
    listed = structure if isinstance(structure, list) else [structure]
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
