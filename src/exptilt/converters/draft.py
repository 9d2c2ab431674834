"""A recipe while it is made of another tool's configuration: what was set, and what became of every key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from exptilt.errors import ConfigError

Outcome = Literal["used", "default", "no effect", "refused"]
"""used: it sets keys of ours; default: it says what holds anyway; no effect: nothing here depends on it; refused: it has no
counterpart here, and a run by the recipe differs from one there."""


@dataclass(frozen=True)
class Fate:
    """What became of one key of the source."""

    key: str
    value: Any
    outcome: Outcome
    says: str
    """Our keys, or why there are none."""
    stated: bool = True
    """Whether the file says it; otherwise it is that tool's default."""


@dataclass
class Draft:
    """Settings by our dotted keys, and the fates of the source's keys."""

    source: Mapping[str, Any]
    """The configuration, with that tool's defaults where it says nothing."""
    stated: frozenset[str]
    """Keys that the files hold themselves."""
    rows: int | None = None
    """Number of training rows, where it is known."""
    settings: dict[str, Any] = field(default_factory=dict)
    fates: dict[str, Fate] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    """Differences in meaning that belong to no single key."""

    def get(self, *keys: str, default: Any = None) -> Any:
        """The value of the first of these keys that the source has and that is not null."""
        return next((self.source[key] for key in keys if self.source.get(key) is not None), default)

    def number(self, *keys: str, default: float | None = None) -> float:
        """The first of these keys that the source has, as a number; a number written as text counts.

        Raises:
            ConfigError: it is none, or `auto`.
        """
        key = next((key for key in keys if self.source.get(key) is not None), None)
        value = default if key is None else self.source[key]
        try:
            return float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise ConfigError(f"{key}: {value!r} is no number") from None

    def has(self, *keys: str) -> bool:
        """Whether the source says one of these keys, other than null."""
        return any(self.source.get(key) is not None for key in keys)

    def use(self, ours: str, value: Any, *keys: str, because: str = "") -> None:
        """Set a key of ours, from these keys of the source."""
        self.settings[ours] = value
        for key in keys:
            earlier = self.fates.get(key)
            together = f"{earlier.says.split(';')[0]}, {ours}" if earlier and earlier.outcome == "used" else ours
            self._end(key, "used", together + (f"; {because}" if because else ""))

    def as_default(self, says: str, *keys: str) -> None:
        """These keys say what holds here anyway."""
        for key in keys:
            self._end(key, "default", says)

    def no_effect(self, says: str, *keys: str) -> None:
        """Nothing that is computed here depends on these keys."""
        for key in keys:
            self._end(key, "no effect", says)

    def refuse(self, says: str, *keys: str) -> None:
        """These keys have no counterpart, and a run differs for it."""
        for key in keys:
            self._end(key, "refused", says)

    def open_keys(self) -> list[str]:
        """Keys whose fate is not decided."""
        return [key for key in self.source if key not in self.fates]

    def _end(self, key: str, outcome: Outcome, says: str) -> None:
        if key in self.source:
            self.fates[key] = Fate(key, self.source[key], outcome, says, key in self.stated)
