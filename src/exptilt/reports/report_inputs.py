"""Reading run folders: what is there is checked, what is missing is None, what is broken is named by file and line."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from exptilt.errors import CheckpointError
from exptilt.run_folder.evaluation_record import DataReport, Evaluation, PairMargin, RunInfo, Sample
from exptilt.run_folder.frontier_record import Frontier

M = TypeVar("M", bound=BaseModel)
_OF_A_RUN = ("config.yaml", "metrics.jsonl", "evaluation.json")
"""A folder with one of these can be reported on."""


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """One run as its files tell it."""

    path: Path
    name: str
    config_text: str
    config: dict[str, Any]
    info: RunInfo | None
    data: DataReport | None
    metrics: tuple[dict[str, float], ...]
    evaluation: Evaluation | None
    samples: tuple[Sample, ...]
    frontier: Frontier | None
    notices: tuple[str, ...]
    margins: tuple[PairMargin, ...] = ()

    def series(self, key: str) -> tuple[list[float], list[float]]:
        """Steps and values of one metric, in order of step; both empty where it was never logged."""
        pairs = [(line["step"], line[key]) for line in self.metrics if key in line]
        return [step for step, _ in pairs], [value for _, value in pairs]

    def setting(self, *keys: str) -> Any:
        """A value of the recipe by its path, or None."""
        node: Any = self.config
        for key in keys:
            node = node.get(key) if isinstance(node, dict) else None
        return node


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Everything one report is made of."""

    runs: tuple[RunFolder, ...]
    frontier: Frontier | None = None
    samples: tuple[tuple[str, tuple[Sample, ...]], ...] = ()
    """Side-by-sides by the name of what they come from."""
    notices: tuple[str, ...] = ()
    title: str = ""


@dataclass
class _Reader:
    """Reads the files of one folder and keeps count of what could not be used."""

    folder: Path
    notices: list[str] = field(default_factory=list)
    num_not_finite: int = 0

    def text(self, name: str) -> str | None:
        path = self.folder / name
        try:
            return path.read_text(encoding="utf-8") if path.is_file() else None
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path}: cannot be read as text: {error}") from None

    def parse(self, text: str, path: Path, line: int = 1) -> Any:
        try:
            return json.loads(text, parse_constant=self._not_finite)
        except json.JSONDecodeError as error:
            raise CheckpointError(f"{path}, line {line + error.lineno - 1}: not valid JSON: {error.msg}") from None

    def record(self, kind: type[M], name: str) -> M | None:
        text = self.text(name)
        return None if text is None else self.check(kind, self.parse(text, self.folder / name), str(self.folder / name))

    def records(self, kind: type[M], name: str) -> tuple[M, ...]:
        path = self.folder / name
        return tuple(self.check(kind, value, f"{path}, line {line}") for line, value in self.lines(name))

    def lines(self, name: str) -> list[tuple[int, Any]]:
        """JSON values with their line numbers; a last line torn by a kill is left out and said."""
        text = self.text(name) or ""
        found = []
        rows = text.split("\n")
        for number, row in enumerate(rows, start=1):
            if not row.strip():
                continue
            try:
                found.append((number, self.parse(row, self.folder / name, number)))
            except CheckpointError:
                if number < len(rows):
                    raise
                self.notices.append(
                    f"{name}: line {number} is incomplete (the run was writing it, or was killed) and is left out"
                )
        return found

    @staticmethod
    def check(kind: type[M], value: Any, where: str) -> M:
        try:
            return kind.model_validate(value)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            key = ".".join(str(part) for part in problem["loc"])
            message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
            raise CheckpointError(f"{where}: {key + ': ' if key else ''}{message}") from None

    def metrics(self) -> tuple[dict[str, float], ...]:
        """One mapping per step: evaluation joins training at its step; a repeated step keeps its last values."""
        name = "metrics.jsonl"
        steps: dict[float, dict[str, float]] = {}
        for number, line in self.lines(name):
            where = f"{self.folder / name}, line {number}"
            if not isinstance(line, dict) or not _is_number(line.get("step")):
                raise CheckpointError(f'{where}: every line must be an object with a number "step"')
            odd = [key for key, value in line.items() if value is not None and not _is_number(value)]
            if odd:
                raise CheckpointError(f"{where}: {odd[0]} must be a number, got {line[odd[0]]!r}")
            values = {key: float(value) for key, value in line.items() if value is not None}
            steps.setdefault(values["step"], {}).update(values)
        return tuple(steps[step] for step in sorted(steps))

    def config(self) -> tuple[str, dict[str, Any]]:
        path = self.folder / "config.yaml"
        text = self.text("config.yaml")
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
        if self.num_not_finite:
            self.notices.append(
                f"{self.num_not_finite} values in the files are NaN or infinite; they are shown as missing"
            )
        return tuple(self.notices)

    def _not_finite(self, _: str) -> None:
        self.num_not_finite += 1


def read_run(folder: Path) -> RunFolder:
    """Read one run folder.

    Raises:
        CheckpointError: if it holds no recipe, log or evaluation, or a file in it is broken.
    """
    if not any((folder / name).is_file() for name in _OF_A_RUN):
        missing = "is no folder" if not folder.is_dir() else f"holds none of {', '.join(_OF_A_RUN)}, frontier.json"
        raise CheckpointError(
            f"{folder}: {missing}; a report is made from a folder that `exptilt train` or `exptilt evaluate` wrote"
        )
    reader = _Reader(folder)
    config_text, config = reader.config()
    info = reader.record(RunInfo, "run.json")
    return RunFolder(
        path=folder,
        name=(info.name if info else None) or folder.resolve().name,
        config_text=config_text,
        config=config,
        info=info,
        data=reader.record(DataReport, "data.json"),
        metrics=reader.metrics(),
        evaluation=reader.record(Evaluation, "evaluation.json"),
        samples=reader.records(Sample, "samples.jsonl"),
        frontier=reader.record(Frontier, "frontier.json"),
        margins=reader.records(PairMargin, "evaluation-margins.jsonl"),
        notices=reader.all_notices(),
    )


def read_inputs(folders: Sequence[Path]) -> Inputs:
    """Read run folders and frontier folders (frontier.json plus `runs/*/`) into what one report shows.

    Raises:
        CheckpointError: if a folder is neither, a file is broken, or two frontiers would share one figure.
    """
    if not folders:
        raise CheckpointError("name at least one run folder")
    parts = [_read_folder(folder) for folder in folders]
    frontiers = [part.frontier for part in parts if part.frontier is not None]
    if len(frontiers) > 1:
        raise CheckpointError(
            "two of the folders hold a frontier.json; their rewards may differ, so make one report for each"
        )
    return Inputs(
        runs=_distinct(tuple(run for part in parts for run in part.runs)),
        frontier=frontiers[0] if frontiers else None,
        samples=tuple(pair for part in parts for pair in part.samples),
        notices=tuple(notice for part in parts for notice in part.notices),
        title=", ".join(part.title for part in parts),
    )


def _read_folder(folder: Path) -> Inputs:
    if (folder / "frontier.json").is_file() and not (folder / "config.yaml").is_file():
        reader = _Reader(folder)
        frontier = reader.record(Frontier, "frontier.json")
        shown = reader.records(Sample, "samples.jsonl")
        own = Inputs(runs=(), frontier=frontier, notices=reader.all_notices())
        inside = [path for path in sorted(folder.glob("runs/*")) if path.is_dir()]
        parts = [own, *(_of_run(read_run(path)) for path in inside)]
        title = folder.resolve().name
        samples = ((title, shown),) if shown else ()
        return Inputs(
            runs=tuple(run for part in parts for run in part.runs),
            frontier=frontier,
            samples=samples + tuple(pair for part in parts for pair in part.samples),
            notices=tuple(notice for part in parts for notice in part.notices),
            title=title,
        )
    return _of_run(read_run(folder))


def _of_run(run: RunFolder) -> Inputs:
    return Inputs(
        runs=(run,),
        frontier=run.frontier,
        samples=((run.name, run.samples),) if run.samples else (),
        notices=tuple(f"{run.name}: {notice}" for notice in run.notices),
        title=run.name,
    )


def _distinct(runs: tuple[RunFolder, ...]) -> tuple[RunFolder, ...]:
    """Runs with one name get their parent folder in front, so no two curves share a label."""
    from dataclasses import replace

    names = [run.name for run in runs]
    return tuple(
        replace(run, name=f"{run.path.resolve().parent.name}/{run.name}") if names.count(run.name) > 1 else run
        for run in runs
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
