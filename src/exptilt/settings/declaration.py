"""`@config`: a settings dataclass is declared once, with its defaults, its ranges and its help."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, TypeVar, dataclass_transform

from exptilt.construction import told
from exptilt.settings.other_tools import word_for
from exptilt.settings.ranges import check_ranges
from exptilt.wording import did_you_mean

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def config(cls: type[T]) -> type[T]:
    """Make a class a frozen, keyword-only settings dataclass that can be read from a recipe.

    Ranges of single fields are declared on the field (`exptilt.settings.ranges`), others are checked in `__post_init__` as
    `ValueError`; both hold in Python as well as in YAML. In YAML a number is a number: `true`, `1_0` and `"3"` are refused. The
    string under a field is its only help text.

    Example:
        >>> @config
        ... class Shape:
        ...     width: int = 3
        >>> Shape(width=4)
        Shape(width=4)
    """
    own_checks = getattr(cls, "__post_init__", None)

    def __post_init__(self: Any) -> None:
        check_ranges(self)
        if own_checks is not None:
            own_checks(self)

    cls.__post_init__ = __post_init__  # type: ignore[attr-defined]
    made: Any = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    made.__init__ = _telling(made, made.__init__)
    made.__pydantic_config__ = {
        "extra": "forbid",
        "use_attribute_docstrings": True,
        "arbitrary_types_allowed": True,
    }
    made.__get_pydantic_core_schema__ = classmethod(_with_plain_numbers)
    result: type[T] = made
    return result


def _telling(cls: Any, make: Any) -> Any:
    """The constructor of a settings class, whose mistakes are one line each in Python, too."""

    @functools.wraps(make)
    def __init__(self: Any, *args: Any, **given: Any) -> None:
        try:
            make(self, *args, **given)
        except (TypeError, ValueError) as error:
            raise told(cls, error, args, given, functools.partial(_meant, cls)) from None

    return __init__


def _meant(cls: Any, name: str) -> str:
    names = [field.name for field in dataclasses.fields(cls)]
    word = word_for(name)
    ours = word.ours.rpartition(".")[2].partition("=")[0] if word is not None else ""
    return f"; it is {ours!r} here" if ours in names else did_you_mean(name, names)


def as_dict(settings: Any) -> dict[str, Any]:
    """A settings dataclass, or a loss, as plain mappings, lists and scalars."""
    plain: dict[str, Any] = _plain(settings)
    return plain


def dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with the dotted keys people write on the command line; an empty mapping is a value.

    Example:
        >>> dotted({"loss": {"name": "dpo", "beta": 0.1}, "seed": 0, "data": {"where": {}}})
        {'loss.name': 'dpo', 'loss.beta': 0.1, 'seed': 0, 'data.where': {}}
    """
    flat: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        flat |= dotted(value, f"{key}.") if isinstance(value, Mapping) and value else {key: value}
    return flat


def declared_defaults(settings: Any) -> dict[str, Any]:
    """The default of every key of a settings object that has one, by dotted key, as plain values.

    A section's own default goes before those of its class.

    Example:
        >>> from exptilt.settings.evaluation_settings import EvaluateConfig
        >>> declared_defaults(EvaluateConfig(level=0.5))["level"]
        0.95
    """
    defaults: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value) and not hasattr(value, "written"):
            defaults |= {f"{field.name}.{key}": inner for key, inner in declared_defaults(value).items()}
        default = field.default_factory() if callable(field.default_factory) else field.default
        if default is not dataclasses.MISSING and (
            type(default) is type(value) or not dataclasses.is_dataclass(default)
        ):
            defaults |= dotted({field.name: _plain(default)})
    return defaults


def _plain(value: Any) -> Any:
    if hasattr(type(value), "written"):  # a part of your own knows how it stands in a recipe
        return _plain(value.written())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _with_plain_numbers(cls: type[Any], source: Any, handler: Any) -> Any:
    """Pydantic's own schema of a dataclass, but no text or boolean is taken for a number, and no number for a boolean."""
    reference = handler(source)
    _refuse_lookalikes(handler.resolve_ref_schema(reference))
    return reference


def _refuse_lookalikes(node: Any) -> None:
    """Change a pydantic core schema in place: strict booleans, floats and integers; 1e3 and 64.0 stay integers."""
    if isinstance(node, list | tuple):
        for part in node:
            _refuse_lookalikes(part)
    if not isinstance(node, dict):
        return
    if node.get("type") == "int":
        inner = dict(node, strict=True)
        node.clear()
        node.update(
            {"type": "function-before", "function": {"type": "no-info", "function": _whole_number}, "schema": inner}
        )
    elif node.get("type") in ("float", "bool"):
        node["strict"] = True
    else:
        for name in _PARTS:
            _refuse_lookalikes(node.get(name))


_PARTS = ("schema", "fields", "choices", "items_schema", "keys_schema", "values_schema")
"""Where a core schema holds others."""


def _whole_number(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value
