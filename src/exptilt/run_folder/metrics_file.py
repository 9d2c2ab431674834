"""`metrics.jsonl`: one line per logged step, readable while the run goes on, and whole again after a resume."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from exptilt.disk import append, write_whole


@dataclass
class MetricsFile:
    """Appends lines; after a resume, lines past the resumed step are cut away first."""

    path: Path

    def cut_after(self, step: int) -> None:
        """Drop lines of steps that will be done again, and a line torn by a kill."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        write_whole(self.path, "".join(line + "\n" for line in lines if _step_of(line) <= step))

    def append(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Append one line."""
        append(self.path, json.dumps({"step": step, "epoch": round(epoch, 6), **values}) + "\n")


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
