"""YAML with memory of where every key stood, so an error can name the line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from exptilt.errors import ConfigError

COMMAND_LINE = "command line"


@dataclass
class Source:
    """Parsed values and, for every dotted key, where it was written."""

    label: str
    values: dict[str, Any] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)

    def lay_over(self, overrides: Sequence[tuple[str, Any]]) -> None:
        """Lay dotted keys over the values, a section before what stands in it, so that their order makes no difference.

        Of one key given twice the last value counts. A section's name alone, `loss=ipo`, keeps the other keys that are written in
        it, as far as they go with the name.
        """
        given = dict(overrides)
        for key in sorted(given, key=lambda key: key.count(".")):
            self._put(key, given[key])

    def _put(self, key: str, value: Any) -> None:
        node = self.values
        *parents, last = key.split(".")
        for parent in parents:
            child = node.get(parent)
            # A shorthand such as `loss: ipo` becomes a mapping as soon as one of its keys is set.
            node[parent] = {"name": child} if isinstance(child, str) else dict(child) if isinstance(child, dict) else {}
            node = node[parent]
        written = node.get(last)
        node[last] = {**written, "name": value} if isinstance(value, str) and _is_named(written) else value
        self.places[key] = COMMAND_LINE

    def where(self, path: Sequence[str]) -> str:
        """Where the deepest known part of a key was written, else where a key below it was."""
        for end in range(len(path), 0, -1):
            place = self.places.get(".".join(path[:end]))
            if place is not None:
                return place
        below = (place for key, place in self.places.items() if path and key.startswith(f"{'.'.join(path)}."))
        return next(below, self.label)

    def is_outdated(self, path: Sequence[str]) -> bool:
        """Whether a key of the file stands in a section that the command line has made another one by its name alone."""
        section = ".".join(path[:-1])
        return self.places.get(section) == COMMAND_LINE and self.places.get(".".join(path)) not in (None, COMMAND_LINE)


def _is_named(section: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(section, dict) and "name" in section


class _Loader(yaml.SafeLoader):
    """YAML 1.2 numbers (`1e-6` is a float), `none` for null, and no duplicate keys."""


class _Dumper(yaml.SafeDumper):
    """Quotes what `_Loader` would take for something else than text."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write equal values twice rather than by reference."""
        return True


_NUMBERS_OF_YAML_1_1 = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
"""There `1_0` is 10, `010` is 8 and `1:30` is 90; the dumper still quotes them, for other readers."""
for _kind in (_Loader, _Dumper):
    _kind.yaml_implicit_resolvers = {
        key: [pair for pair in pairs if _kind is _Dumper or pair[0] not in _NUMBERS_OF_YAML_1_1]
        for key, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:int", re.compile(r"^(?:[-+]?[0-9]+|0x[0-9a-fA-F]+)$"), list("-+0123456789")
    )
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(
            r"^(?:[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
        ),
        list("-+0123456789."),
    )
    _kind.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:none|None)$"), ["n", "N"])


_Loader.add_constructor(
    "tag:yaml.org,2002:int", lambda loader, node: int(str(node.value), 16 if str(node.value).startswith("0x") else 10)
)


def to_yaml(value: Any, *, flow: bool = False) -> str:
    """A value as YAML that `read_yaml` reads as an equal one; `flow` puts it on one line."""
    width = 10_000 if flow else 120
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=flow, width=width)
    return text.removesuffix("...\n").strip() if flow else text


def read_yaml(path: str | Path) -> Source:
    """Read a YAML mapping.

    Raises:
        ConfigError: the file is missing, is no text, is no YAML, or is no mapping.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if "=" in path.name:
            raise ConfigError(
                f"{path} stands where the recipe should: the recipe comes first, then key=value"
            ) from None
        raise ConfigError(f"{path}: no such file; `exptilt init {path}` writes a commented recipe there") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder, not a recipe file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as text: {error}") from None
    source = Source(label=str(path))
    node = _compose(text, str(path))
    if node is None:
        return source
    if not isinstance(node, yaml.MappingNode):
        kind = "list" if isinstance(node, yaml.SequenceNode) else "single value"
        raise ConfigError(f"{path}: a recipe is a mapping of keys to values, this is a {kind}")
    _remember(node, str(path), (), source.places)
    source.values = _construct(text, str(path))
    return source


def read_override(override: str) -> tuple[str, Any]:
    """Read `dotted.key=value`; the value is YAML.

    Raises:
        ConfigError: it has another form, or the value is no YAML.
    """
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"command line: {override!r} is not of the form key=value (for example train.max_steps=100)")
    return key, parse_value(override, text)


def parse_value(shown: str, text: str) -> Any:
    """Read the right-hand side of `key=value` as YAML."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader subclass
    except yaml.YAMLError:
        raise ConfigError(f"command line: the value of {shown!r} is not valid YAML; quote it if it is text") from None


def _compose(text: str, label: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(_yaml_problem(label, error)) from None


def _construct(text: str, label: str) -> dict[str, Any]:
    try:
        values: dict[str, Any] = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader subclass
    except yaml.YAMLError as error:
        raise ConfigError(_yaml_problem(label, error)) from None
    return values


def _yaml_problem(label: str, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    line = f" line {mark.line + 1}" if mark is not None else ""
    return f"{label}{line}: not valid YAML: {getattr(error, 'problem', None) or error}"


def _remember(node: yaml.Node, label: str, path: tuple[str, ...], places: dict[str, str]) -> None:
    if isinstance(node, yaml.SequenceNode):
        for position, item in enumerate(node.value):
            _remember(item, label, (*path, str(position)), places)
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        inner = (*path, str(key.value))
        place = f"{label} line {key.start_mark.line + 1}"
        if ".".join(inner) in places:
            raise ConfigError(f"{place}: {'.'.join(inner)}: written twice; keep one")
        places[".".join(inner)] = place
        _remember(value, label, inner, places)
