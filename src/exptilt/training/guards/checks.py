"""The dangers that a run is watched for, in the order in which they are asked about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from exptilt.training.guards.cautions import Facts, History
from exptilt.training.guards.cures import Danger

Check = Callable[[History, Facts], Danger | None]


@dataclass(frozen=True)
class Checks:
    """Which dangers are looked for; the gravest come first."""

    training: tuple[Check, ...]
    """Asked after every line of training metrics."""
    held_out: tuple[Check, ...]
    """Asked after every line of held-out metrics."""
