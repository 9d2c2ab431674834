"""A run's folder: everything about one run, readable by people and by `exptilt report`.

config.yaml       the resolved recipe; `exptilt train` of it is the same run
run.json          versions, hardware, seeds, the reference's identity, status, warnings
data.json         what was read, kept and left out
metrics.jsonl     one line per logged step
checkpoints/      complete ones only
model/            what `from_pretrained` loads
evaluation.json   held-out measurements;  samples.jsonl  side by sides;  report.html  the page
earlier/          runs that `train.resume=never` has moved aside, by date

Which folder may become one, and that one process at a time works in it: `ownership` and `lock`.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from typing import Any

from exptilt.disk import refusals, write_lines, write_whole
from exptilt.errors import CheckpointError

_VERSIONS = ("exptilt", "torch", "transformers", "peft", "tokenizers", "datasets", "numpy")

_OF_A_RUN = (
    *("config.yaml", "run.json", "data.json", "metrics.jsonl", "checkpoints", "model", "best", "samples"),
    *("samples.jsonl", "evaluation*.json", "evaluation*.jsonl", "report.html", "report.json", "sft", "tokenizer"),
    *("weights", "merged", "tensorboard", "wandb", "trackio", "mlruns"),
)
"""What a run and the verbs that follow it write into its folder."""


@dataclass(frozen=True)
class RunFolder:
    """Paths and files of one run."""

    path: Path
    writes: bool = True
    """Whether this process is the one that writes; the others of a run only read."""

    @property
    def model(self) -> Path:
        """The trained model, in the form `from_pretrained` loads."""
        return self.path / "model"

    def is_finished_run_of(self, recipe: str) -> bool:
        """Whether this folder holds a finished run of exactly this recipe, given as the text of a config.yaml."""
        return self.read("run.json").get("status") == "done" and self.recipe_text() == recipe

    def recipe_text(self) -> str | None:
        """The resolved recipe as it was written; None where there is none that can be read."""
        try:
            return (self.path / "config.yaml").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return None

    def has_results(self) -> bool:
        """Whether a run has left something that training made."""
        return any((self.path / name).is_dir() for name in ("checkpoints", "model"))

    def set_aside(self) -> Path | None:
        """Move all files of an earlier run into `earlier/DATE`, a run folder of its own, so that a new run starts in none.

        What exptilt does not write stays where it is.

        Returns:
            The new place; None where there was nothing to move.

        Raises:
            DiskError: a file cannot be moved; nothing is lost, and the same call goes on.
        """
        names = sorted(path.name for path in self.path.iterdir() if _is_of_a_run(path.name))
        if not names:
            return None
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S")
        places = (self.path / "earlier" / f"{now}{more}" for more in ("", *(f"-{n}" for n in range(2, 1000))))
        place = next(place for place in places if not place.exists())
        names.sort(key=lambda name: (name == "config.yaml", name != "checkpoints"))  # a kill between leaves no mixture
        with refusals(place):
            place.mkdir(parents=True)
            for name in names:
                (self.path / name).rename(place / name)
        return place

    def read(self, name: str) -> dict[str, Any]:
        """A JSON file of the run; empty if it is not there."""
        path = self.path / name
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except ValueError as error:
            raise CheckpointError(f"{path}: is not valid JSON ({error}); remove it to have it written anew") from None
        if not isinstance(content, dict):
            raise CheckpointError(f"{path}: is not a JSON object; remove it to have it written anew")
        return content

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file in one piece."""
        self.write_text(name, json.dumps(content, indent=1, allow_nan=False) + "\n")

    def write_lines(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write a JSON-lines file in one piece."""
        if self.writes:
            write_lines(self.path / name, rows)

    def write_text(self, name: str, text: str) -> None:
        """Replace a file in one act, so a reader never sees half of it."""
        if self.writes:
            write_whole(self.path / name, text)

    def update_manifest(self, **entries: Any) -> None:
        """Lay entries over `run.json`."""
        self.write("run.json", self.read("run.json") | entries)


def manifest(seed: int) -> dict[str, Any]:
    """What is known about a run before it starts."""
    return {
        "exptilt": version("exptilt"),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "finished": None,
        "status": "running",
        "seed": seed,
        "versions": {name: version(name) for name in _VERSIONS} | {"python": platform.python_version()},
        "hardware": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores",
    }


def _is_of_a_run(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in _OF_A_RUN)
