"""A run's folder: everything about one run, readable by people and by `exptilt report`.

config.yaml       the resolved recipe; `exptilt train` of it is the same run
run.json          versions, hardware, seeds, the reference's identity, status, warnings
data.json         what was read, kept and left out
metrics.jsonl     one line per logged step
checkpoints/      complete ones only
model/            what `from_pretrained` loads
evaluation.json   held-out measurements;  samples.jsonl  side by sides;  report.html  the page
round-1/          of a recipe with `rounds`: the run of the first round, with its samples, votes and rows beside it
earlier/          runs that `train.resume=never` has moved aside, by date

Which folder may become one, and that one process at a time works in it: `ownership` and `lock`.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from exptilt.disk import refusals, write_whole
from exptilt.errors import CheckpointError
from exptilt.run_folder.file_names import CHECKPOINTS, CONFIG, MODEL, RUN
from exptilt.run_folder.record import FilePart, FileRecord
from exptilt.run_folder.record_reader import checked
from exptilt.run_folder.round_files import RoundFiles
from exptilt.run_folder.run_record import RunRecord

R = TypeVar("R", bound=FileRecord)
_VERSIONS = ("exptilt", "torch", "transformers", "peft", "tokenizers", "datasets", "numpy")

_OF_A_RUN = (
    *("config.yaml", "run.json", "data.json", "metrics.jsonl", "checkpoints", "model", "best", "samples"),
    *("samples.jsonl", "evaluation*.json", "evaluation*.jsonl", "report.html", "report.json", "sft", "tokenizer"),
    *("weights", "merged", "merged-base", "critic", "tensorboard", "wandb", "trackio", "mlruns", "round-[0-9]*"),
    *("pictures", "mask_evaluation*.json", "rivals"),
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
        return self.path / MODEL

    def recipe_text(self) -> str | None:
        """The resolved recipe as it was written; None where there is none that can be read."""
        try:
            return (self.path / CONFIG).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return None

    def has_results(self) -> bool:
        """Whether a run has left something that training made."""
        trained = any((self.path / name).is_dir() for name in (CHECKPOINTS, MODEL))
        return trained or RoundFiles(self.path, 1).samples.is_dir()

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
        names.sort(key=lambda name: (name == CONFIG, name != CHECKPOINTS))  # a kill between leaves no mixture
        with refusals(place):
            place.mkdir(parents=True)
            for name in names:
                (self.path / name).rename(place / name)
        return place

    @property
    def run(self) -> RunRecord:
        """run.json; without any value where it is not there."""
        return checked(RunRecord, self.read(RUN), str(self.path / RUN))

    def record(self, kind: type[R], name: str) -> R | None:
        """A JSON file as its record; None where it is not there.

        Raises:
            CheckpointError: naming the file, and the key or what to do.
        """
        content = self.read(name)
        return checked(kind, content, str(self.path / name)) if content else None

    def read(self, name: str) -> dict[str, Any]:
        """A JSON file as it stands, for people who look; empty if it is not there."""
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

    def write(self, name: str, record: FileRecord) -> None:
        """Write a JSON file in one piece."""
        self.write_text(name, json.dumps(record.as_dict(), indent=1, allow_nan=False) + "\n")

    def write_lines(self, name: str, records: Iterable[FilePart]) -> None:
        """Write a JSON-lines file in one piece; its folder is made."""
        self.write_text(name, "".join(json.dumps(one.as_dict(), ensure_ascii=False) + "\n" for one in records))

    def write_text(self, name: str, text: str) -> None:
        """Replace a file in one act, so a reader never sees half of it; its folder is made."""
        if not self.writes:
            return
        path = self.path / name
        with refusals(path):
            path.parent.mkdir(exist_ok=True)
        write_whole(path, text)

    def update_manifest(self, **entries: Any) -> None:
        """Lay entries, by their names in `RunRecord`, over `run.json`."""
        self.write(RUN, self.run.updated(**entries))


def manifest(seed: int) -> RunRecord:
    """What is known of a run before it starts."""
    return RunRecord(
        exptilt=version("exptilt"),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        finished=None,
        status="running",
        seed=seed,
        versions={name: version(name) for name in _VERSIONS} | {"python": platform.python_version()},
        hardware=f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores",
    )


def _is_of_a_run(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in _OF_A_RUN)
