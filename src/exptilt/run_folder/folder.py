"""A run's folder: everything about one run, readable by people and by `exptilt report`.

config.yaml       the resolved recipe; `exptilt train` of it is the same run
run.json          versions, hardware, seeds, the reference's identity, status, warnings
data.json         what was read, kept and left out
metrics.jsonl     one line per logged step
checkpoints/      complete ones only
model/            what `from_pretrained` loads
evaluation.json   held-out measurements;  samples.jsonl  side by sides;  report.html  the page
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from exptilt.errors import CheckpointError, ConfigError
from exptilt.run_folder.file_names import CHECKPOINTS, CONFIG, MODEL, RUN
from exptilt.run_folder.record import FilePart, FileRecord
from exptilt.run_folder.record_reader import checked
from exptilt.run_folder.run_record import RunRecord
from exptilt.runs.identity import changed_keys
from exptilt.settings.load import dump, load
from exptilt.settings.recipe import Recipe

R = TypeVar("R", bound=FileRecord)
_VERSIONS = ("exptilt", "torch", "transformers", "peft", "tokenizers", "datasets", "numpy")


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

    def is_finished_run_of(self, recipe: Recipe) -> bool:
        """Whether this folder holds a finished run of exactly this recipe."""
        return self.run.status == "done" and self._recipe_text() == dump(recipe)

    def begin(self, recipe: Recipe) -> None:
        """Make the folder and write the resolved recipe.

        Raises:
            CheckpointError: the folder holds another run, which would lose its recipe, or cannot be written.
        """
        if recipe.train.resume == "auto":
            self._refuse_another_run(recipe)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.write_text(CONFIG, dump(recipe))
        except (FileExistsError, NotADirectoryError):
            raise CheckpointError(
                f"{self.path}: output must be a folder, and a file is in its way; set another output"
            ) from None
        except OSError as error:
            raise CheckpointError(
                f"{self.path}: the run folder cannot be written ({error.strerror}); set another output"
            ) from None

    def _recipe_text(self) -> str | None:
        try:
            return (self.path / CONFIG).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return None

    def _refuse_another_run(self, recipe: Recipe) -> None:
        written = self._recipe_text()
        if written is None or written == dump(recipe):
            return
        if not (self.path / RUN).is_file():
            raise CheckpointError(
                f"{self.path}: has a config.yaml that is not of a run and would be overwritten; set another output"
            )
        if not any((self.path / name).is_dir() for name in (CHECKPOINTS, MODEL)):
            return
        try:
            changed = changed_keys(load(Recipe, self.path / CONFIG), recipe)
        except ConfigError:
            changed = ["config.yaml, which this version of exptilt does not read"]
        if changed:
            raise CheckpointError(
                f"{self.path}: holds a run of another recipe (different: {_listed(changed)}); set another output, "
                "or remove the folder to start anew"
            )

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
        """Replace a file in one act, so a reader never sees half of it."""
        if not self.writes:
            return
        path = self.path / name
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)

    def update_manifest(self, **entries: Any) -> None:
        """Lay entries, by their names in `RunRecord`, over `run.json`."""
        self.write(RUN, self.run.updated(**entries))


def manifest(recipe: Recipe) -> RunRecord:
    """What is known of a run before it starts."""
    return RunRecord(
        exptilt=version("exptilt"),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        finished=None,
        status="running",
        seed=recipe.seed,
        versions={name: version(name) for name in _VERSIONS} | {"python": platform.python_version()},
        hardware=f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores",
    )


def _listed(keys: list[str]) -> str:
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return ", ".join(keys[:3]) + more
