"""The keys that a recipe may hold: at one place, and all of them."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from exptilt.settings.declaration import as_dict

TAGS = ("name", "kind")
"""Keys that say which of several sections stands in a place."""


def keys_at(cls: type[Any], values: Any, path: Sequence[str]) -> list[str]:
    """The keys that may stand at a path; where a section is one of several, the name written in it decides."""
    hint: Any = cls
    for key in path:
        if not key.isdigit():  # the type of a list leads to its items' section as well
            section = _section(hint, values)
            hint = None if section is None else typing.get_type_hints(section, include_extras=True).get(key)
        values = _item(values, key)
    section = _section(hint, values)
    return [] if section is None else [field.name for field in dataclasses.fields(section)]


def _item(values: Any, key: str) -> Any:
    if isinstance(values, Mapping):
        return values.get(key)
    return values[int(key)] if isinstance(values, list) and key.isdigit() and int(key) < len(values) else None


def _section(hint: Any, values: Any) -> Any:
    """The settings class of a field by its type and by the values written in it; None where there is none."""
    for mark in getattr(hint, "__metadata__", ()):
        if hasattr(mark, "settings_class"):
            return mark.settings_class(values)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return hint
    sections = [section for part in typing.get_args(hint) if (section := _section(part, values)) is not None]
    named = [section for section in sections if _is_tagged(section, values)]
    return next(iter(named or sections), None)


def _is_tagged(section: Any, values: Any) -> bool:
    """Whether the tag that is written in a place is this section's."""
    hints = typing.get_type_hints(section)
    return isinstance(values, Mapping) and any(values.get(tag) in typing.get_args(hints.get(tag)) for tag in TAGS)


def all_keys(cls: type[Any], values: Any) -> list[str]:
    """All dotted keys of a recipe but those inside lists, in sections that are left out as well.

    Where one of several sections may stand, it is the one that is written, else the default.

    Example:
        >>> from exptilt.settings.recipe import Recipe
        >>> keys = all_keys(Recipe, {"loss": {"name": "simpo"}})
        >>> [key for key in keys if key.endswith((".gamma", ".rank"))]
        ['adapter.rank', 'loss.gamma']
    """
    return list(_keys_below(cls, values, ""))


def _keys_below(section: Any, values: Any, prefix: str) -> Iterator[str]:
    hints = typing.get_type_hints(section, include_extras=True)
    for field in dataclasses.fields(section):
        key = f"{prefix}{field.name}"
        yield key
        written = values.get(field.name) if isinstance(values, Mapping) else None
        if written is None and dataclasses.is_dataclass(field.default):
            written = as_dict(field.default)
        inner = None if _is_list(hints[field.name]) else _section(hints[field.name], written)
        if inner is not None:
            yield from _keys_below(inner, written, f"{key}.")


def _is_list(hint: Any) -> bool:
    return any(typing.get_origin(part) in (tuple, list) for part in (hint, *typing.get_args(hint)))
