"""Kinds of rules by which one key of another tool becomes keys of ours, or is accounted for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from exptilt.converters.draft import Draft
from exptilt.errors import ConfigError

Rule = Callable[[Draft, str, Any], None]

OFF: tuple[Any, ...] = (False, None, "no", "none", "None", "", [], {}, "false")
"""Values that switch something off."""


def to(ours: str, values: Mapping[Any, Any] | None = None, because: str = "") -> Rule:
    """The value, or what it is called here, under a key of ours."""

    def rule(draft: Draft, key: str, value: Any) -> None:
        if values is None:
            draft.use(ours, value, key, because=because)
        elif value in values:
            draft.use(ours, values[value], key, because=because)
        else:
            draft.refuse(f"{ours} has no {value!r}", key)

    return rule


def flag(ours: str, value: Any, because: str = "") -> Rule:
    """A switch: on sets a key of ours, off is our default."""

    def rule(draft: Draft, key: str, given: Any) -> None:
        if given in OFF:
            draft.as_default("off here as well", key)
        else:
            draft.use(ours, value, key, because=because)

    return rule


def free(says: str) -> Rule:
    """A key on which nothing here depends."""
    return lambda draft, key, _: draft.no_effect(says, key)


def only_if_off(says: str) -> Rule:
    """A switch that has no counterpart: off is fine."""

    def rule(draft: Draft, key: str, given: Any) -> None:
        if given in OFF or given == 0:
            draft.as_default("off here as well", key)
        else:
            draft.refuse(says, key)

    return rule


def number(ours: str, because: str = "") -> Rule:
    """A number, also where it is written as text."""

    def rule(draft: Draft, key: str, value: Any) -> None:
        try:
            draft.use(ours, float(value), key, because=because)
        except (TypeError, ValueError):
            raise ConfigError(f"{key}: {value!r} is no number") from None

    return rule
