"""Reading the files of a folder: what is broken is named by file and line, what is torn or not finite is counted."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from exptilt.errors import CheckpointError
from exptilt.run_folder.file_names import CONFIG, METRICS
from exptilt.run_folder.metrics_file import is_number
from exptilt.run_folder.record import FORMAT, FilePart, FileRecord

R = TypeVar("R", bound=FilePart)


@dataclass
class RecordReader:
    """Reads the files of one folder and keeps count of what could not be used."""

    folder: Path
    notices: list[str] = field(default_factory=list)
    num_not_finite: int = 0

    def record(self, kind: type[R], name: str) -> R | None:
        """A JSON file as its record, or None where there is no such file.

        Raises:
            CheckpointError: naming file and line or key.
        """
        text = self._text(name)
        if text is None:
            return None
        found = checked(kind, self._parsed(text, name), str(self.folder / name))
        if isinstance(found, FileRecord) and found.format > FORMAT:
            self.notices.append(
                f"{name}: is of format {found.format}, and this version of exptilt knows {FORMAT}; what is new is not shown"
            )
        return found

    def records(self, kind: type[R], name: str) -> tuple[R, ...]:
        """A JSON-lines file as records; empty where there is no such file.

        Raises:
            CheckpointError: naming file, line and key.
        """
        path = self.folder / name
        return tuple(checked(kind, value, f"{path}, line {line}") for line, value in self._lines(name))

    def metrics(self) -> tuple[dict[str, float], ...]:
        """One mapping for each step: evaluation joins training at its step; a repeated step keeps its last values.

        Raises:
            CheckpointError: naming file, line and key.
        """
        steps: dict[float, dict[str, float]] = {}
        counted = self.num_not_finite
        lines = self._lines(METRICS)
        self.num_not_finite = counted  # of older files: NaN itself, which is a None here too
        for number, line in lines:
            where = f"{self.folder / METRICS}, line {number}"
            if not isinstance(line, dict) or not is_number(line.get("step")):
                raise CheckpointError(f'{where}: every line must be an object with a number "step"')
            odd = [key for key, value in line.items() if value is not None and not is_number(value)]
            if odd:
                raise CheckpointError(f"{where}: {odd[0]} must be a number, got {line[odd[0]]!r}")
            values = {key: float(value) for key, value in line.items() if value is not None}
            self.num_not_finite += len(line) - len(values)
            steps.setdefault(values["step"], {}).update(values)
        return tuple(steps[step] for step in sorted(steps))

    def config(self) -> tuple[str, dict[str, Any]]:
        """The recipe's text, and its content as plain values; empty where there is none.

        Raises:
            CheckpointError: naming file and line.
        """
        path, text = self.folder / CONFIG, self._text(CONFIG)
        if text is None:
            return "", {}
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f", line {mark.line + 1}" if mark is not None else ""
            raise CheckpointError(f"{path}{line}: not valid YAML: {getattr(error, 'problem', error)}") from None
        if not isinstance(value, dict):
            raise CheckpointError(f"{path}, line 1: a recipe must be a mapping of keys to values")
        return text, value

    def all_notices(self) -> tuple[str, ...]:
        """What a reader of the report must know about the files."""
        if not self.num_not_finite:
            return tuple(self.notices)
        said = f"{self.num_not_finite} values in the files are NaN or infinite; they are shown as missing"
        return (*self.notices, said)

    def _text(self, name: str) -> str | None:
        path = self.folder / name
        try:
            return path.read_text(encoding="utf-8") if path.is_file() else None
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path}: cannot be read as text: {error}") from None

    def _lines(self, name: str) -> list[tuple[int, Any]]:
        """JSON values with their line numbers; a last line torn by a kill is left out and noticed."""
        values = []
        rows = (self._text(name) or "").split("\n")
        for number, row in enumerate(rows, start=1):
            if not row.strip():
                continue
            try:
                values.append((number, self._parsed(row, name, number)))
            except CheckpointError:
                if number < len(rows):
                    raise
                self.notices.append(
                    f"{name}: line {number} is incomplete (the run was writing it, or was killed) and is left out"
                )
        return values

    def _parsed(self, text: str, name: str, line: int = 1) -> Any:
        try:
            return json.loads(text, parse_constant=self._not_finite, parse_float=self._float)
        except json.JSONDecodeError as error:
            where = f"{self.folder / name}, line {line + error.lineno - 1}"
            raise CheckpointError(f"{where}: not valid JSON: {error.msg}") from None

    def _float(self, text: str) -> float | None:
        value = float(text)
        if math.isfinite(value):
            return value
        self._not_finite(text)
        return None

    def _not_finite(self, _: str) -> None:
        self.num_not_finite += 1


def checked(kind: type[R], value: Any, where: str) -> R:
    """Plain values as a record.

    Raises:
        CheckpointError: `where`, which key, and what is wrong with it.
    """
    try:
        return kind.from_dict(value)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in problem["loc"])
        message = (
            problem["msg"]
            .removeprefix("Value error, ")
            .replace("Input should be", "must be")
            .replace("valid tuple", "valid list")
        )
        raise CheckpointError(f"{where}: {key + ': ' if key else ''}{message}") from None
