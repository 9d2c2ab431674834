"""Recipes: YAML plus `key=value` into frozen dataclasses, with errors a person can act on.

A component declares its settings once, as a dataclass made by `@config`; a recipe is a dataclass of such dataclasses, and a choice
between components is a union told apart by their `name` field. There is no registry and no second place for a default.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from exptilt.errors import ConfigError
from exptilt.settings.declaration import as_dict
from exptilt.settings.mistakes import explain, real_path
from exptilt.settings.yaml_source import Source, read_override, read_yaml, to_yaml

logger = logging.getLogger(__name__)

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
    source.values = _with_bare_keys_spelled(cls, source.values)
    source.lay_over([_bare_key_spelled(cls, *read_override(override)) for override in overrides])
    return build(cls, source)


def build(cls: type[T], source: Source) -> T:
    """Build `cls` from parsed YAML; every problem becomes one line of a `ConfigError`."""
    from pydantic import ValidationError

    source = dataclasses.replace(source, values=_expand_shorthands(cls, source.values))
    try:
        try:
            built: T = _adapter(cls).validate_python(source.values)
        except ValidationError as error:
            built = _adapter(cls).validate_python(_as_meant(source, error.errors(include_url=False)))
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
    expanded = _with_bare_keys_spelled(cls, values)
    for field in dataclasses.fields(cls):
        given = expanded.get(field.name)
        if isinstance(given, Mapping) and "import" in given:
            continue
        if hasattr(field.default, "name") and isinstance(given, str | Mapping):
            written = {"name": given} if isinstance(given, str) else given
            expanded[field.name] = {"name": field.default.name, **written}
    return expanded


def _with_bare_keys_spelled(cls: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """`rounds: 3` means `rounds: {num_rounds: 3}`, as `bare_keys` of the class says."""
    spelled = dict(values)
    for section, key in getattr(cls, "bare_keys", {}).items():
        if _is_bare(spelled.get(section)):
            spelled[section] = {key: spelled[section]}
    return spelled


def _is_bare(value: Any) -> bool:
    return value is not None and not isinstance(value, Mapping)


def _bare_key_spelled(cls: type[Any], key: str, value: Any) -> tuple[str, Any]:
    """`rounds=3` changes the number, and nothing else of what the file says of rounds."""
    inner = getattr(cls, "bare_keys", {}).get(key)
    return (f"{key}.{inner}", value) if inner is not None and _is_bare(value) else (key, value)


def _as_meant(source: Source, problems: Sequence[Any]) -> Any:
    """The values as they were meant, where YAML or brevity wrote them otherwise.

    YAML's `none` is read as null where a key has a choice of that name (`parallel.kind=none`). A single value stands for a list of
    one (`train.report_to=wandb`). Keys of the file that another choice on the command line (`loss=ipo`) does not have are left
    out, and that is said.
    """
    values = copy.deepcopy(source.values)
    for problem in problems:
        path = real_path(values, [str(part) for part in problem["loc"]])
        if not path:  # the recipe as a whole
            continue
        *parents, name = path
        node = values
        for key in parents:
            node = node[int(key) if isinstance(node, list) else key]
        if problem["type"] == "literal_error" and problem["input"] is None and "'none'" in problem["ctx"]["expected"]:
            node[name] = "none"
        elif problem["type"] == "tuple_type" and isinstance(problem["input"], str):
            node[name] = [problem["input"]]
        elif problem["type"] == "unexpected_keyword_argument" and source.is_outdated(path):
            logger.warning("%s: %s: left out, %s has no such key", source.where(path), ".".join(path), node["name"])
            del node[name]
    return values
