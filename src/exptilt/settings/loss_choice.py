"""`loss:` of a recipe: a name and hyper-parameters, checked without torch.

For every loss there is a settings class of the same fields, defaults and ranges, made from `objectives.json` when it is first asked for.
`exptilt.losses.build_loss` makes the loss itself of a choice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Annotated, Any, ClassVar, Literal, Protocol, Union

from pydantic import Discriminator, Field, TypeAdapter
from pydantic_core import PydanticKnownError, core_schema

from exptilt.errors import ConfigError
from exptilt.kinds import Kind, kind_of
from exptilt.settings.declaration import as_dict, config
from exptilt.settings.load import build
from exptilt.settings.objectives import definition, document, entries
from exptilt.settings.own_parts import OwnPart, dataclass_named, is_own, own_schema
from exptilt.settings.ranges import NotEmpty, Range
from exptilt.settings.yaml_source import Source


class NamedLoss(Protocol):
    """What a choice and the loss itself have in common: Python code may give a recipe either."""

    @property
    def name(self) -> str:
        """What the loss is called in a recipe."""

    @property
    def kind(self) -> Kind:
        """What the loss is called with."""


class LossChoice:
    """Base of the settings classes of losses; `LossChoice.of("dpo", beta=0.2)` makes one.

    Example:
        >>> LossChoice.of("dpo", beta=0.2)
        DPO(name='dpo', beta=0.2, label_smoothing=0.0)
        >>> LossChoice.of("dpo").kind.name
        'pair'
    """

    name: str
    kind: ClassVar[Kind]

    @staticmethod
    def of(loss: str, **settings: Any) -> LossChoice:
        """A loss by its name.

        Raises:
            ConfigError: there is no such loss, or a setting is wrong.
        """
        made = choice_of({"name": loss, **settings})
        assert isinstance(made, LossChoice)  # noqa: S101 - it was asked for by name
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return choice_of, (as_dict(self),)


@dataclass(frozen=True, kw_only=True)
class OwnLoss(OwnPart):
    """A loss of your own: what a recipe needs to know of it, and how it is made."""

    @cached_property
    def loss(self) -> Any:
        """The loss itself."""
        return self.make()

    @property
    def name(self) -> str:
        """What the loss calls itself."""
        return str(self.loss.name)

    @property
    def kind(self) -> Kind:
        """What the loss is called with."""
        kind: Kind = self.loss.kind
        return kind

    @property
    def beta(self) -> float | None:
        """Its strength, where it has a setting of that name."""
        beta: float | None = self.setting("beta")
        return beta

    def require_loss(self, kinds: Set[Kind]) -> OwnLoss:
        """Refuse what is no loss of these kinds.

        Raises:
            ValueError: saying what is missing.
        """
        parts = [name for name in ("kind", "name", "__call__") if not hasattr(self.loss, name)]
        if parts or not isinstance(self.kind, Kind):
            lacks = parts[0] if parts else "kind"
            raise ValueError(f"import {self.path}: is no loss (no {lacks}); subclass exptilt.losses.Loss")
        if self.kind not in kinds:
            known = ", ".join(sorted(kind.name for kind in kinds))
            raise ValueError(f"import {self.path}: its kind is {self.kind}; here a loss is of kind {known}")
        return self


def choice_of(loss: Any) -> LossChoice | OwnLoss:
    """The choice that names a loss: of a choice itself, a name, a mapping, or a loss object, of the catalogue or your own.

    Raises:
        ConfigError: it is none of these, or a setting is wrong.
    """
    if isinstance(loss, LossChoice | OwnLoss):
        return loss
    try:
        wanted = _as_written(loss)
    except ValueError as error:
        raise ConfigError(f"loss: {error}") from None
    built: Any = build(_Holder, Source(label="recipe", values={"loss": wanted})).loss
    return built  # type: ignore[no-any-return]


def needs_of(choice: NamedLoss) -> tuple[str, ...]:
    """What a loss reads besides the policy's sums: reference, lengths, tokens, and its `inputs` by name.

    Example:
        >>> needs_of(LossChoice.of("xpo"))
        ('reference', 'chosen_is_policy')
    """
    if isinstance(choice, OwnLoss):
        return tuple(choice.loss.inputs)
    return next(entry.needs for entry in entries() if entry.name == choice.name)


def _as_written(value: Any) -> Any:
    """A loss, or a part of one, as it stands in a recipe."""
    if isinstance(value, list | tuple):
        return [_as_written(item) for item in value]
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    if isinstance(value, OwnPart):
        return value.written()
    if hasattr(value, "kind") and not _is_of_catalogue(value):
        return OwnPart.of(value).written()
    return {field.name: _as_written(getattr(value, field.name)) for field in dataclasses.fields(value)}


def _is_of_catalogue(loss: Any) -> bool:
    name = getattr(loss, "name", None)
    ours = type(loss).__module__.startswith("exptilt.")
    return ours and name in (*policy_names(), *reward_model_names()) and _title(str(name)) == type(loss).__name__


@dataclass(frozen=True)
class OneLossOf:
    """Marks a settings field that holds one loss of several, by its name; pydantic asks it what is allowed."""

    names: tuple[str, ...]

    def choose(self, written: Any) -> LossChoice | OwnLoss:
        """Read what stands in a recipe: a name, a mapping with a name, or one that imports a loss of your own."""
        if isinstance(written, LossChoice | OwnLoss):
            written = as_dict(written)
        if is_own(written):
            return OwnLoss.read(written).require_loss({loss_class(name).kind for name in self.names})
        written = {"name": written} if isinstance(written, str) else written
        if not isinstance(written, Mapping):
            raise PydanticKnownError("dataclass_type", {"class_name": "loss"})
        if "name" not in written:
            raise PydanticKnownError("union_tag_not_found", {"discriminator": "'name'"})
        if written["name"] not in self.names:
            known = ", ".join(repr(name) for name in self.names)
            context = {"discriminator": "'name'", "tag": str(written["name"]), "expected_tags": known}
            raise PydanticKnownError("union_tag_invalid", context)
        chosen: LossChoice = _reader(written["name"]).validate_python(written)
        return chosen

    def settings_class(self, written: Any) -> type[Any] | None:
        """The class of what stands in a recipe; None where the name is missing or wrong."""
        if is_own(written):
            return dataclass_named(written)
        name = written.get("name") if isinstance(written, Mapping) else written
        return loss_class(name) if name in self.names else None

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.choose, serialization=core_schema.plain_serializer_function_ser_schema(as_dict)
        )

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> Any:
        members: Any = Union[tuple(loss_class(name) for name in self.names)]  # noqa: UP007 - made at run time
        one_of: Any = Annotated[members, Discriminator("name")]
        described = handler(TypeAdapter(one_of).core_schema)
        return {**described, "oneOf": [*described["oneOf"], own_schema("loss")]}


@cache
def policy_names() -> tuple[str, ...]:
    """Names of all losses a policy can be trained with, in the catalogue's order."""
    return tuple(_names(document()))


@cache
def loss_class(name: str) -> type[LossChoice]:
    """The settings class of a loss of the catalogue."""
    for described in document()["$defs"].values():
        if described["properties"].get("name", {}).get("const") == name:
            return _settings_class(described, (LossChoice,), {"kind": kind_of(described["x-objective"]["kind"])})
    raise KeyError(name)


@cache
def _reader(name: str) -> TypeAdapter[Any]:
    return TypeAdapter(loss_class(name))


def _title(name: str) -> str:
    return loss_class(name).__name__


@cache
def _part_class(title: str) -> type[Any]:
    """The settings class of a part of a loss, such as the term of a mixture."""
    return _settings_class(document()["$defs"][title], (), {})


def _settings_class(described: Mapping[str, Any], bases: tuple[type, ...], facts: Mapping[str, Any]) -> type[Any]:
    """A settings class from its JSON Schema."""
    annotations: dict[str, Any] = {}
    members: dict[str, Any] = dict(facts)
    for name, field in described["properties"].items():
        annotations[name] = _annotation(field)
        if "default" in field:
            members[name] = _default(field)
    inside = {"__annotations__": annotations, "__module__": __name__, "__doc__": described["description"], **members}
    made: Any = config(type(described["title"], bases, inside))
    made.__pydantic_config__ = {"extra": "forbid"}  # the help is in the annotations, there is no source to read
    return made  # type: ignore[no-any-return]


def _annotation(field: Mapping[str, Any]) -> Any:
    if "anyOf" in field:  # a number that may be left out
        (given,) = (one for one in field["anyOf"] if one != {"type": "null"})
        return Annotated[_annotation(given) | None, Field(description=field.get("description"))]
    kind: Any = _type_of(field)
    constraints: list[Any] = []
    if field.get("type") == "number":
        constraints.append(Range.of_schema(field))
    if "minItems" in field:
        constraints.append(NotEmpty(field["x-item"]))
    return Annotated[kind, *constraints, Field(description=field.get("description"))]


def _type_of(field: Mapping[str, Any]) -> Any:
    if "oneOf" in field:
        return Annotated[LossChoice, OneLossOf(tuple(_names(field)))]
    if "const" in field or "enum" in field:
        return Literal[tuple(field.get("enum", (field.get("const"),)))]
    if "$ref" in field:
        return _part_class(field["$ref"].rsplit("/", 1)[-1])
    if field["type"] == "array":
        return tuple[_type_of(field["items"]), ...]  # type: ignore[misc]
    return {"number": float, "integer": int, "boolean": bool}[field["type"]]


def _names(node: Mapping[str, Any]) -> Sequence[str]:
    content = document()
    return [definition(member, content)["properties"]["name"]["const"] for member in node["oneOf"]]


def _default(field: Mapping[str, Any]) -> Any:
    value = field["default"]
    return TypeAdapter(_type_of(field)).validate_python(value) if isinstance(value, list | dict) else value


@cache
def reward_model_names() -> tuple[str, ...]:
    """Names of all losses a reward model can be trained with, in the catalogue's order."""
    content = document()
    return tuple(definition(member, content)["properties"]["name"]["const"] for member in content["x-reward-models"])


AnyLossChoice = Annotated[NamedLoss, OneLossOf((*policy_names(), *reward_model_names()))]
"""Type of a settings field that holds any loss a policy or a reward model can be trained with."""


@config
class _Holder:
    """A recipe's loss alone, so that a mistake in Python reads as a mistake in a recipe."""

    loss: AnyLossChoice
