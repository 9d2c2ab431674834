"""Every key of a recipe with its type, default and meaning, read from the settings themselves."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from exptilt.config import as_dict, schema


@dataclass(frozen=True)
class Key:
    """One key a recipe may hold."""

    path: str
    type: str
    default: str
    meaning: str


def keys_of(cls: type[Any]) -> list[Key]:
    """All keys, section by section; those of a choice (`loss`) stand under `loss[name]`."""
    whole = schema(cls)
    return list(_walk(whole, whole.get("$defs", {}), ""))


def print_keys(cls: type[Any]) -> None:
    """Print all keys as a table: key, type, default, meaning."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("key", "type", "default"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "key")
    table.add_column("meaning", overflow="fold", ratio=1)
    for key in keys_of(cls):
        table.add_row(key.path, key.type, key.default, key.meaning)
    Console().print(table)


def commented_yaml(recipe: Any, chosen: Mapping[str, Any]) -> str:
    """A recipe as YAML with the meaning of every key above it.

    Args:
        recipe: a settings dataclass instance; its values are written.
        chosen: keys to write first, with what the reader should edit (unused keys of a section follow as they are).
    """
    meanings = {key.path: key.meaning for key in keys_of(type(recipe))}
    values = as_dict(recipe) | dict(chosen)
    lines: list[str] = []
    _write(values, "", meanings, lines)
    return "\n".join(lines) + "\n"


def _write(values: Mapping[str, Any], prefix: str, meanings: Mapping[str, str], lines: list[str]) -> None:
    indent = "  " * prefix.count(".")
    for name, value in values.items():
        path = f"{prefix}{name}"
        meaning = meanings.get(path) or meanings.get(_choice_path(prefix, name, values))
        if meaning:
            lines += [f"{indent}# {line}" for line in textwrap.wrap(meaning, 100)]
        if isinstance(value, Mapping) and value:
            lines.append(f"{indent}{name}:")
            _write(value, f"{path}.", meanings, lines)
            if not indent:
                lines.append("")
        else:
            lines.append(f"{indent}{name}: {_scalar(value)}")


def _choice_path(prefix: str, name: str, values: Mapping[str, Any]) -> str:
    return f"{prefix.rstrip('.')}[{values.get('name')}].{name}"


def _scalar(value: Any) -> str:
    return (
        yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1000).removesuffix("\n...\n").strip()
    )


def _walk(node: Mapping[str, Any], definitions: Mapping[str, Any], prefix: str) -> Iterator[Key]:
    for name, entry in node.get("properties", {}).items():
        path = f"{prefix}{name}"
        inner = _follow(entry, definitions)
        variants = [_follow(variant, definitions) for variant in (*inner.get("oneOf", []), *inner.get("anyOf", []))]
        sections = [variant for variant in (inner, *variants) if "properties" in variant]
        yield Key(path, _type(entry, definitions), _default(entry), " ".join(str(entry.get("description", "")).split()))
        for section in sections:
            tag = section["properties"].get("name", {}).get("const")
            yield from _walk(section, definitions, f"{path}[{tag}]." if tag and len(sections) > 1 else f"{path}.")


def _follow(entry: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = entry.get("$ref")
    return definitions[reference.rsplit("/", 1)[-1]] if reference else entry


def _type(entry: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    if "const" in entry:
        return repr(entry["const"])
    if "enum" in entry:
        return " | ".join(str(value) for value in entry["enum"])
    variants = [*entry.get("oneOf", []), *entry.get("anyOf", [])]
    if variants:
        named = [_type(variant, definitions) for variant in variants]
        return " | ".join(dict.fromkeys(named)) if len(named) <= 4 else "one of them, by name"
    if "$ref" in entry:
        return "section"
    return {"string": "text", "null": "none", "array": "list", "object": "section"}.get(
        str(entry.get("type")), str(entry.get("type", "any"))
    )


def _default(entry: Mapping[str, Any]) -> str:
    if "default" not in entry:
        return "required"
    value = entry["default"]
    return "" if isinstance(value, Mapping) else _scalar(value)
