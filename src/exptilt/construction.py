"""Mistakes in a call, told in one line: a keyword that is not known, a value of the wrong type, a position where a keyword belongs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from exptilt.errors import ConfigError
from exptilt.wording import did_you_mean

Hint = Callable[[str], str]
"""Says what was meant by an unknown keyword: the end of the message."""
_TYPES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "int": ("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    "float": ("a number", lambda value: isinstance(value, int | float) and not isinstance(value, bool)),
    "bool": ("True or False", lambda value: isinstance(value, bool)),
    "str": ("text", lambda value: isinstance(value, str)),
    "Positive": ("a number", lambda value: isinstance(value, int | float) and not isinstance(value, bool)),
    "NonNegative": ("a number", lambda value: isinstance(value, int | float) and not isinstance(value, bool)),
    "Finite": ("a number", lambda value: isinstance(value, int | float) and not isinstance(value, bool)),
}
"""By an annotation without ` | None`: what a value must be."""


def told(
    cls: type[Any],
    error: TypeError | ValueError,
    args: Sequence[Any],
    given: Mapping[str, Any],
    hint: Hint | None = None,
) -> ConfigError:
    """One line about a dataclass that could not be made of these arguments.

    Args:
        cls: the dataclass.
        error: what its own construction raised.
        args: positional arguments.
        given: keyword arguments.
        hint: what was meant by an unknown keyword; default, the field that is spelled like it.
    """
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    unknown = next((name for name in given if name not in fields), None)
    if unknown is not None:
        return ConfigError(f"{cls.__name__}: {unknown}: unknown keyword{(hint or did_you_mean_of(fields))(unknown)}")
    if args and len(args) > sum(not field.kw_only for field in fields.values()):
        first = next((name for name in fields if name != "name"), None)
        example = f", such as {cls.__name__}({first}=...)" if first else ""
        return ConfigError(f"{cls.__name__}: settings are given by name{example}, got {args[0]!r}")
    for name, value in given.items():
        what, fits = _TYPES.get(str(fields[name].type).removesuffix(" | None"), ("", lambda _value: True))
        if not fits(value) and not (value is None and str(fields[name].type).endswith("| None")):
            return ConfigError(f"{cls.__name__}: {name} must be {what}, got {value!r}")
    missing = [name for name in fields if name not in given and f"{name!r}" in str(error)]
    if missing:
        return ConfigError(f"{cls.__name__}: {missing[0]} is missing; it has no default")
    return ConfigError(str(error))  # a range; its message names the field


def did_you_mean_of(names: Sequence[str] | Mapping[str, Any]) -> Hint:
    """The hint that names the known keyword that is spelled like an unknown one."""
    return lambda name: did_you_mean(name, names)
