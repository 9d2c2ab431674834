"""Advice of a guard rail: one setting and one direction; the setting that caused the danger comes first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from exptilt.run_folder.run_record import Caution
from exptilt.training.guards.cautions import Facts

Direction = Literal["raise", "lower", "set"]

_UNUSUAL = 5.0
"""A setting that is further than this factor from its usual value is blamed before others."""
_RATES = 10.0
"""Usual learning rates differ by this factor between large models and small ones."""


@dataclass(frozen=True)
class Cure:
    """One setting and the direction to move it in."""

    direction: Direction
    key: str
    words: str = ""
    """Words after the setting."""

    def text(self, facts: Facts) -> str:
        """The advice in words, with the present value if it is known."""
        now = {"loss.beta": facts.beta, "optim.learning_rate": facts.learning_rate}.get(self.key)
        return f"{self.direction} {self.key}{'' if now is None else f', now {now:g}'}{self.words}"

    def blame(self, facts: Facts) -> float:
        """Factor between the setting and its usual value, if this cure would reduce it; 1 if it is usual or unknown."""
        now, usual = {
            "loss.beta": (facts.beta, facts.usual_beta),
            "optim.learning_rate": (facts.learning_rate, facts.usual_rate),
        }.get(self.key, (None, None))
        if not now or not usual:
            return 1.0
        factor = now / usual if self.direction == "lower" else usual / now
        if self.key == "optim.learning_rate":  # its usual value is the largest one, and says nothing of small ones
            factor = factor / _RATES if self.direction == "lower" else 1.0
        return factor if factor > _UNUSUAL else 1.0


@dataclass(frozen=True)
class Danger:
    """A danger that a guard rail sees; it becomes a caution with one advice."""

    step: int
    name: str
    message: str
    cures: tuple[Cure, ...]
    """The usual one first."""
    value: float
    limit: float
    alarm: bool = False
    """Whether the model must not be used as it is."""

    def ordered(self, facts: Facts) -> list[Cure]:
        """Cures that this objective allows, the most likely cause first."""
        some = [cure for cure in self.cures if cure.key != "loss.beta" or facts.beta]
        return sorted(some, key=lambda cure: -cure.blame(facts))

    def caution(self, facts: Facts, given: Mapping[str, str]) -> tuple[Caution, Cure]:
        """The caution, with the first cure that does not contradict earlier advice (`given`: direction by key)."""
        cures = self.ordered(facts)
        cure = next((one for one in cures if _agrees(one, given)), cures[0])
        alarm: dict[str, Any] = {"alarm": True} if self.alarm else {}  # what is usual is not written
        caution = Caution(
            step=self.step,
            name=self.name,
            message=self.message,
            advice=cure.text(facts),
            value=self.value,
            limit=self.limit,
            **alarm,
        )
        return caution, cure


def _agrees(cure: Cure, given: Mapping[str, str]) -> bool:
    return given.get(cure.key, cure.direction) == cure.direction


def cures(*ways: str | Cure) -> tuple[Cure, ...]:
    """Cures by their text, "raise loss.beta" for one; a `Cure` stays as it is.

    Example:
        >>> cures("lower loss.beta")
        (Cure(direction='lower', key='loss.beta', words=''),)
    """
    return tuple(_read(way) if isinstance(way, str) else way for way in ways)


def _read(way: str) -> Cure:
    direction, _, key = way.partition(" ")
    return Cure(direction, key)  # type: ignore[arg-type]
