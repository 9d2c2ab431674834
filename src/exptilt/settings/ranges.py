"""Ranges of settings, declared once on the field: the class checks them, and its JSON Schema shows them.

beta: Positive = 0.1
label_smoothing: Annotated[float, Range(ge=0, lt=0.5)] = 0.0
"""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

_KEYWORDS = {"gt": "exclusiveMinimum", "ge": "minimum", "lt": "exclusiveMaximum", "le": "maximum"}
"""The names of a range's ends in JSON Schema."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """The numbers a field takes; never NaN.

    Example:
        >>> Range(ge=0, lt=1).check("dropout", 1.0)
        Traceback (most recent call last):
        ...
        ValueError: dropout must be in [0, 1), got 1.0
    """

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None
    other_than: float | None = None
    """One number inside that is refused."""
    finite: bool = True
    """Whether infinity is refused too; JSON has none, so a schema does not say this."""

    def check(self, name: str, value: float) -> None:
        """Refuse a value outside.

        Raises:
            ValueError: the message begins with the name.
        """
        if value not in self:
            raise ValueError(f"{name} must be {self}, got {value}")

    def __contains__(self, value: float) -> bool:
        return (
            not math.isnan(value)
            and not (self.finite and math.isinf(value))
            and value != self.other_than
            and (self.gt is None or value > self.gt)
            and (self.ge is None or value >= self.ge)
            and (self.lt is None or value < self.lt)
            and (self.le is None or value <= self.le)
        )

    def __str__(self) -> str:
        low, high = self._low(), self._high()
        if low and high:
            text = f"in {low}, {high}"
        elif self.gt is not None or self.ge is not None:
            text = f"> {self.gt:g}" if self.gt is not None else f">= {self.ge:g}"
            text += " and finite" if self.finite else ""
        else:
            text = "finite"
        return text + (f" and not {self.other_than:g}" if self.other_than is not None else "")

    def _low(self) -> str:
        return f"({self.gt:g}" if self.gt is not None else f"[{self.ge:g}" if self.ge is not None else ""

    def _high(self) -> str:
        return f"{self.lt:g})" if self.lt is not None else f"{self.le:g}]" if self.le is not None else ""

    @classmethod
    def of_schema(cls, described: Mapping[str, Any]) -> Range:
        """The range that a property's JSON Schema states."""
        ends = {name: described[keyword] for name, keyword in _KEYWORDS.items() if keyword in described}
        return cls(**ends, other_than=described.get("not", {}).get("const"))

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: Any) -> dict[str, Any]:
        """The field's JSON Schema with the ends added."""
        ends = {keyword: getattr(self, name) for name, keyword in _KEYWORDS.items() if getattr(self, name) is not None}
        refused = {} if self.other_than is None else {"not": {"const": self.other_than}}
        return {**handler(core_schema), **ends, **refused}


@dataclass(frozen=True)
class NotEmpty:
    """A list that holds at least one item."""

    item: str
    """The word for an item."""

    def check(self, name: str, value: Any) -> None:
        """Refuse an empty list.

        Raises:
            ValueError: the message begins with the name.
        """
        if not value:
            raise ValueError(f"{name} must hold at least one {self.item}, got none")

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: Any) -> dict[str, Any]:
        """The field's JSON Schema with the least number of items, and with the word."""
        return {**handler(core_schema), "minItems": 1, "x-item": self.item}


Positive = Annotated[float, Range(gt=0)]
"""A finite number above 0."""
NonNegative = Annotated[float, Range(ge=0)]
"""A finite number, at least 0."""
Finite = Annotated[float, Range()]
"""Any number but infinity and NaN."""


def check_ranges(settings: Any) -> None:
    """Check every field of a settings dataclass that declares a range; None passes, and words where the field may be one.

    Raises:
        ValueError: the message begins with the field's name.
    """
    cls: Any = type(settings)
    for name, constraint in _constraints(cls):
        value = getattr(settings, name)
        if value is not None and not (isinstance(value, str) and name in _may_be_words(cls)):
            constraint.check(name, value)


@cache
def _may_be_words(cls: Any) -> frozenset[str]:
    """Fields of which one member is text: `float | Literal["auto"]`."""
    hints = typing.get_type_hints(cls)
    return frozenset(
        name for name, hint in hints.items() if _is_text(hint) or any(map(_is_text, typing.get_args(hint)))
    )


def _is_text(hint: Any) -> bool:
    return hint is str or (
        typing.get_origin(hint) is Literal and any(isinstance(one, str) for one in typing.get_args(hint))
    )


@cache
def _constraints(cls: Any) -> tuple[tuple[str, Range | NotEmpty], ...]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return tuple(
        (name, constraint)
        for name, hint in hints.items()
        for constraint in _metadata(hint)
        if isinstance(constraint, Range | NotEmpty)
    )


def _metadata(hint: Any) -> tuple[Any, ...]:
    """The metadata of `Annotated[x, ...]`, also where it is one of a union."""
    if typing.get_origin(hint) is Annotated:
        return (*hint.__metadata__, *_metadata(hint.__origin__))
    return tuple(part for member in typing.get_args(hint) for part in getattr(member, "__metadata__", ()))
