"""Mistakes in a recipe, as lines a person can act on: where, what is wrong, what was meant."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from exptilt.settings.key_hints import hint_for
from exptilt.settings.known_keys import TAGS, keys_at
from exptilt.settings.other_tools import LOSS_TYPES
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
        return f"{where}: {shown}: unknown key{hint_for(cls, source.values, path, problem['input'])}"
    if kind == "union_tag_invalid":
        allowed = str(problem["ctx"]["expected_tags"]).replace("'", "").split(", ")
        tag, key = str(problem["ctx"]["tag"]), _tag_key(problem)
        return f"{where}: {shown}.{key}: unknown {key} {tag!r}{_meant_name(tag, allowed, shown)}"
    if kind == "union_tag_not_found":
        return f"{where}: {shown}.{_tag_key(problem)}: missing; it says which kind this is"
    if kind in ("missing", "missing_argument"):
        return f"{where}: {shown}: missing; it has no default"
    if kind in _NO_SECTION:
        known = keys_at(cls, source.values, path)
        inside = f", such as {path[-1]}.{known[0]}" if known and path else ""
        return f"{where}: {shown}: must hold keys of its own{inside}, got {_shown(problem['input'])}"
    if kind == "value_error":
        return _out_of_range(source, path, str(problem["ctx"]["error"]))
    if kind == "literal_error" and len(problem["msg"]) > _LONG:
        allowed = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
        meant = did_you_mean(str(problem["input"]), allowed)
        more = meant if "?" in meant else f"; `exptilt config {shown}` lists what is allowed"
        return f"{where}: {shown}: unknown {path[-1]} {_shown(problem['input'])}{more}"
    message = re.sub(r", (unable to parse|got a number with).*", "", problem["msg"]).replace("Input should", "must")
    return f"{where}: {shown}: {message}, got {_shown(problem['input'])}"


def _meant_name(tag: str, allowed: Sequence[str], key: str) -> str:
    """The name that was meant, of ours or another tool's; a short list of names, or where a long one is."""
    if LOSS_TYPES.get(tag.lower()) in allowed:
        return f"; it is {LOSS_TYPES[tag.lower()]!r} here"
    hint = did_you_mean(tag, allowed)
    return hint if len(hint) < _LONG else f"; `exptilt config {key}` lists the names"


_LONG = 200
"""Characters from which a list of allowed values says less than the one that was meant."""


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
        if key.startswith("["):  # a form or a part, no key that could be written
            continue
        if isinstance(node, Mapping) and key in node:
            node = node[key]
        elif isinstance(node, list) and key.isdigit() and int(key) < len(node):
            node = node[int(key)]
        elif not last or isinstance(node, Mapping) is False or key in (node.get(tag) for tag in TAGS):
            continue
        path.append(key)
    return path
