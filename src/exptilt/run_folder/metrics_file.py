"""metrics.jsonl: one line for each logged step, readable while the run goes on, and whole again after a resume."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exptilt.disk import append, write_whole


@dataclass(frozen=True)
class MetricsLine:
    """One line: a step, and whatever was measured there.

    A value that is not finite is written as null, so that every line is JSON; readers count and leave it out.
    """

    step: int
    epoch: float
    values: Mapping[str, float | None]

    def as_dict(self) -> dict[str, Any]:
        """The line as one flat mapping.

        Raises:
            ValueError: a metric is called `step` or `epoch`, or is not a number.
        """
        for name, value in self.values.items():
            if name in ("step", "epoch"):
                raise ValueError(f"metric {name!r}: the line has a {name} of its own")
            if value is not None and not is_number(value):
                raise ValueError(f"metric {name!r} must be a number, got {value!r}")
        finite = {name: one if one is not None and math.isfinite(one) else None for name, one in self.values.items()}
        return {"step": self.step, "epoch": round(self.epoch, 6), **finite}


@dataclass
class MetricsFile:
    """Appends lines; after a resume, lines past the resumed step are cut away first."""

    path: Path

    def cut_after(self, step: int) -> None:
        """Drop lines of steps that will be done again, and a line torn by a kill."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        write_whole(self.path, "".join(line + "\n" for line in lines if _step_of(line) <= step))

    def append(self, line: MetricsLine) -> None:
        """Append one line."""
        append(self.path, json.dumps(line.as_dict(), allow_nan=False) + "\n")


def is_number(value: Any) -> bool:
    """Whether a value is a number and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
