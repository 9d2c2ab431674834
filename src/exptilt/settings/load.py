"""Recipes: YAML plus `key=value` into frozen dataclasses, with errors a person can act on.

A component declares its settings once, as a dataclass made by `@config`; a recipe is a dataclass of such dataclasses, and a choice
between components is a union told apart by their `name` field. There is no registry and no second place for a default.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from exptilt.errors import ConfigError
from exptilt.settings.declaration import as_dict
from exptilt.settings.mistakes import explain, real_path
from exptilt.settings.yaml_source import Source, parse_value, read_yaml, to_yaml

T = TypeVar("T")


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
        try:
            built: T = _adapter(cls).validate_python(source.values)
        except ValidationError as error:
            built = _adapter(cls).validate_python(_with_choices_spelled(source.values, error.errors(include_url=False)))
    except ValidationError as error:
        lines = [explain(cls, source, problem) for problem in error.errors(include_url=False)]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None
    return built


def dump(value: Any) -> str:
    """YAML of a settings dataclass with every key resolved; `load` of it gives an equal object."""
    return to_yaml(as_dict(value))


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
    """`loss: ipo` means `loss: {name: ipo}`, and `loss: {beta: 0.2}` means another beta of the default loss.

    A part of your own, `loss: {import: ...}`, is left as it is.
    """
    expanded = dict(values)
    for field in dataclasses.fields(cls):
        given = expanded.get(field.name)
        if isinstance(given, Mapping) and "import" in given:
            continue
        if hasattr(field.default, "name") and isinstance(given, str | Mapping):
            written = {"name": given} if isinstance(given, str) else given
            expanded[field.name] = {"name": field.default.name, **written}
    return expanded


def _with_choices_spelled(values: Any, problems: Sequence[Any]) -> Any:
    """Where YAML's `none` was read as null and the key has a choice of that name (`parallel.kind=none`), the choice."""
    values = copy.deepcopy(values)
    for problem in problems:
        if problem["type"] == "literal_error" and problem["input"] is None and "'none'" in problem["ctx"]["expected"]:
            *parents, name = real_path(values, [str(part) for part in problem["loc"]])
            node = values
            for key in parents:
                node = node[int(key) if isinstance(node, list) else key]
            node[name] = "none"
    return values
