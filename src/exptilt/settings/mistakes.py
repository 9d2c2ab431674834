"""Mistakes in a recipe, as lines a person can act on: where, what is wrong, what was meant."""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from exptilt.settings.yaml_source import Source
from exptilt.wording import did_you_mean


def explain(cls: type[Any], source: Source, problem: Mapping[str, Any]) -> str:
    """One line for one problem that pydantic names."""
    keys = [str(part) for part in problem["loc"]]
    kind = problem["type"]
    path = real_path(source.values, keys)
    where = source.where(path)
    shown = ".".join(path) or "recipe"
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{where}: {shown}: unknown key{did_you_mean(path[-1], _known_keys(cls, source.values, path[:-1]))}"
    if kind == "union_tag_invalid":
        allowed = str(problem["ctx"]["expected_tags"]).replace("'", "").split(", ")
        tag, key = str(problem["ctx"]["tag"]), _tag_key(problem)
        return f"{where}: {shown}.{key}: unknown {key} {tag!r}{did_you_mean(tag, allowed)}"
    if kind == "union_tag_not_found":
        return f"{where}: {shown}.{_tag_key(problem)}: missing; it says which kind this is"
    if kind in ("missing", "missing_argument"):
        return f"{where}: {shown}: missing; it has no default"
    if kind in _NO_SECTION:
        known = _known_keys(cls, source.values, path)
        inside = f", such as {path[-1]}.{known[0]}" if known and path else ""
        return f"{where}: {shown}: must hold keys of its own{inside}, got {_shown(problem['input'])}"
    if kind == "value_error":
        return _out_of_range(source, path, str(problem["ctx"]["error"]))
    message = re.sub(r", (unable to parse|got a number with).*", "", problem["msg"]).replace("Input should", "must")
    return f"{where}: {shown}: {message}, got {_shown(problem['input'])}"


TAGS = ("name", "kind")
"""Keys that say which of several sections stands in a place."""


def _tag_key(problem: Mapping[str, Any]) -> str:
    return str(problem["ctx"]["discriminator"]).strip("'")


_NO_SECTION = ("dataclass_type", "model_attributes_type", "dict_type", "mapping_type")


def _out_of_range(source: Source, path: Sequence[str], message: str) -> str:
    """A range check names its field first: `beta must be > 0, got -1`; the line of that field is the one to show."""
    inner = (*path, message.split()[0])
    if ".".join(inner) in source.places:
        return f"{source.where(inner)}: {'.'.join((*path, message))}"
    return f"{source.where(path)}: {'.'.join(path) or 'recipe'}: {message}"


def _shown(value: Any) -> str:
    """A value as it is written in a recipe."""
    return repr(value) if isinstance(value, str) else json.dumps(value, default=str)


def real_path(values: Any, keys: Sequence[str]) -> list[str]:
    """Drop what pydantic adds to a location (union tags, `[key]`) and the user never wrote."""
    path: list[str] = []
    node = values
    for position, key in enumerate(keys):
        last = position == len(keys) - 1
        if isinstance(node, Mapping) and key in node:
            node = node[key]
        elif isinstance(node, list) and key.isdigit() and int(key) < len(node):
            node = node[int(key)]
        elif not last or isinstance(node, Mapping) is False or key in (node.get(tag) for tag in TAGS):
            continue
        path.append(key)
    return path


def _known_keys(cls: type[Any], values: Any, path: Sequence[str]) -> list[str]:
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
