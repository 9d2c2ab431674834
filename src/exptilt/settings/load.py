"""Recipes: YAML plus `key=value` into frozen dataclasses, with errors a person can act on.

A component declares its settings once, as a dataclass made by `@config`; a recipe is a dataclass of such dataclasses, and a choice
between components is a union told apart by their `name` field. There is no registry and no second place for a default.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, dataclass_transform

from exptilt.errors import ConfigError
from exptilt.settings.yaml_source import Source, parse_value, read_yaml, to_yaml

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def config(cls: type[T]) -> type[T]:
    """Make a class a frozen, keyword-only settings dataclass that can be read from a recipe.

    Range checks belong in `__post_init__` as `ValueError`, so they hold in Python as well as in YAML. The string under a field is its
    only help text.

    Example:
        >>> @config
        ... class Shape:
        ...     width: int = 3
        >>> Shape(width=4)
        Shape(width=4)
    """
    made = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    made.__pydantic_config__ = {"extra": "forbid", "use_attribute_docstrings": True}  # type: ignore[attr-defined]
    return made


def load(cls: type[T], path: str | Path | None, overrides: Sequence[str] = ()) -> T:
    """Read a recipe file, lay `key=value` overrides over it, and build `cls`.

    Args:
        cls: a class made by `@config`.
        path: the YAML file, or None for defaults alone.
        overrides: `dotted.key=value`; the value is read as YAML, so `1e-6`, `true` and `[a, b]` mean what they say.

    Raises:
        ConfigError: a line per problem: where it stands (file and line, or the command line), what is wrong, what was meant.
    """
    source = read_yaml(path) if path is not None else Source(label="defaults")
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(
                f"command line: {override!r} is not of the form key=value (for example train.max_steps=100)"
            )
        source.put(key, parse_value(override, text))
    return build(cls, source)


def build(cls: type[T], source: Source) -> T:
    """Build `cls` from parsed YAML; every problem becomes one line of a `ConfigError`."""
    from pydantic import ValidationError

    source = dataclasses.replace(source, values=_expand_shorthands(cls, source.values))
    try:
        built: T = _adapter(cls).validate_python(source.values)
    except ValidationError as error:
        lines = [_explain(cls, source, problem) for problem in error.errors(include_url=False)]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None
    return built


def dump(value: Any) -> str:
    """YAML of a settings dataclass with every key resolved; `load` of it gives an equal object."""
    return to_yaml(as_dict(value))


def as_dict(value: Any) -> dict[str, Any]:
    """A settings dataclass as plain mappings, lists and scalars."""
    plain: dict[str, Any] = _adapter(type(value)).dump_python(value, mode="json")
    return plain


def schema(cls: type[Any]) -> dict[str, Any]:
    """JSON Schema of a settings dataclass, with the help texts, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_adapter(cls).json_schema()}


_ADAPTERS: dict[Any, Any] = {}
"""By class: building one takes longer than using it a hundred times."""


def _adapter(cls: Any) -> Any:
    from pydantic import TypeAdapter

    if cls not in _ADAPTERS:
        _ADAPTERS[cls] = TypeAdapter(cls)
    return _ADAPTERS[cls]


def _expand_shorthands(cls: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """`loss: ipo` means `loss: {name: ipo}`, and `loss: {beta: 0.2}` means another beta of the default loss."""
    expanded = dict(values)
    for field in dataclasses.fields(cls):
        given = expanded.get(field.name)
        if hasattr(field.default, "name") and isinstance(given, str | Mapping):
            written = {"name": given} if isinstance(given, str) else given
            expanded[field.name] = {"name": field.default.name, **written}
    return expanded


def _explain(cls: type[Any], source: Source, problem: Mapping[str, Any]) -> str:
    keys = [str(part) for part in problem["loc"]]
    kind = problem["type"]
    path = _real_path(source.values, keys)
    where = source.where(path)
    shown = ".".join(path) or "recipe"
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{where}: {shown}: unknown key{_meant(path[-1], _known_keys(cls, keys[:-1]))}"
    if kind == "union_tag_invalid":
        allowed = str(problem["ctx"]["expected_tags"]).replace("'", "").split(", ")
        tag = str(problem["ctx"]["tag"])
        return f"{where}: {shown}.name: unknown name {tag!r}{_meant(tag, allowed)}"
    if kind == "union_tag_not_found":
        return f"{where}: {shown}.name: missing; it says which kind this is"
    if kind in ("missing", "missing_argument"):
        return f"{where}: {shown}: missing; it has no default"
    if kind in _NO_SECTION:
        known = _known_keys(cls, keys)
        inside = f", such as {path[-1]}.{known[0]}" if known and path else ""
        return f"{where}: {shown}: must hold keys of its own{inside}, got {_shown(problem['input'])}"
    if kind == "value_error":
        return _out_of_range(source, path, str(problem["ctx"]["error"]))
    message = re.sub(r", (unable to parse|got a number with).*", "", problem["msg"]).replace("Input should", "must")
    return f"{where}: {shown}: {message}, got {_shown(problem['input'])}"


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


def _real_path(values: Any, keys: Sequence[str]) -> list[str]:
    """Drop what pydantic adds to a location (union tags, `[key]`) and the user never wrote."""
    path: list[str] = []
    node = values
    for position, key in enumerate(keys):
        last = position == len(keys) - 1
        if isinstance(node, Mapping) and key in node:
            node = node[key]
        elif isinstance(node, list) and key.isdigit() and int(key) < len(node):
            node = node[int(key)]
        elif not last or isinstance(node, Mapping) is False or node.get("name") == key:
            continue
        path.append(key)
    return path


def _known_keys(cls: type[Any], keys: Sequence[str]) -> list[str]:
    """Field names allowed at a pydantic location."""
    node, definitions = schema(cls), schema(cls).get("$defs", {})
    for key in keys:
        node = _descend(node, definitions, key)
    return list(_resolve(node, definitions).get("properties", {}))


def _descend(node: dict[str, Any], definitions: Mapping[str, Any], key: str) -> dict[str, Any]:
    node = _resolve(node, definitions)
    for variant in _variants(node):
        solved = _resolve(variant, definitions)
        if key in (solved.get("properties", {}).get("name", {}).get("const"), solved.get("title")):
            return solved
        if key in solved.get("properties", {}):
            return dict(solved["properties"][key])
    if key.isdigit() and "items" in node:
        return dict(node["items"])
    return dict(node.get("properties", {}).get(key, node))


def _variants(node: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    return [*node.get("oneOf", []), *node.get("anyOf", [])]


def _resolve(node: dict[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    reference = node.get("$ref")
    return dict(definitions[reference.rsplit("/", 1)[-1]]) if reference else node


def _meant(given: str, allowed: Sequence[str]) -> str:
    near = difflib.get_close_matches(given, allowed, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else (f" (known: {', '.join(allowed)})" if allowed else "")
