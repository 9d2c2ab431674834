"""Everything the files of one run folder hold, read once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exptilt.errors import CheckpointError
from exptilt.kinds import KINDS
from exptilt.run_folder.data_record import DataReport
from exptilt.run_folder.evaluation_record import Evaluation
from exptilt.run_folder.file_names import CONFIG, DATA, EVALUATION, FRONTIER, METRICS, RUN, SAMPLES, margins_of
from exptilt.run_folder.frontier_record import Frontier
from exptilt.run_folder.record_reader import RecordReader
from exptilt.run_folder.run_record import RunRecord
from exptilt.run_folder.samples_record import PairMargin, SideBySide

_OF_A_RUN = (CONFIG, METRICS, EVALUATION)
"""A folder with one of these can be reported on."""


@dataclass(frozen=True, kw_only=True)
class RunContents:
    """One run as its files describe it; what a file does not hold is None or empty."""

    path: Path
    name: str
    config_text: str
    config: dict[str, Any]
    info: RunRecord | None
    data: DataReport | None
    metrics: tuple[dict[str, float], ...]
    evaluation: Evaluation | None
    further: dict[str, Evaluation]
    """By name, evaluations on other rows, of another policy or against another reference (`evaluation-NAME.json`)."""
    samples: tuple[SideBySide, ...]
    frontier: Frontier | None
    notices: tuple[str, ...]
    margins: tuple[PairMargin, ...] = ()

    @property
    def is_online(self) -> bool:
        """Whether the run drew its completions itself."""
        return any("train/rollout/reward" in line for line in self.metrics)

    @property
    def is_of_reward_model(self) -> bool:
        """Whether the run trained or measured a reward model, by its rows or its evaluation."""
        measured = self.evaluation is not None and self.evaluation.is_of_reward_model
        kind = self.data.kind if self.data else None
        return measured or any(known == kind and known.scores for known in KINDS)

    def series(self, key: str) -> tuple[list[float], list[float]]:
        """Steps and values of one metric, in order of step; both empty where it was never logged."""
        pairs = [(line["step"], line[key]) for line in self.metrics if key in line]
        return [step for step, _ in pairs], [value for _, value in pairs]

    def series_of_model(self, key: str) -> tuple[list[float], list[float]]:
        """The same up to the step whose weights are the model, where `train.best` kept those of an earlier one."""
        steps, values = self.series(key)
        kept = self.info.kept if self.info else None
        if kept is None:
            return steps, values
        count = sum(step <= kept.step for step in steps)
        return steps[:count], values[:count]

    def setting(self, *keys: str) -> Any:
        """A value of the recipe by its path, or None."""
        node: Any = self.config
        for key in keys:
            node = node.get(key) if isinstance(node, dict) else None
        return node


def read_run(folder: Path) -> RunContents:
    """Read one run folder.

    Raises:
        CheckpointError: it holds no recipe, log or evaluation, or a file in it is broken.
    """
    if not any((folder / name).is_file() for name in _OF_A_RUN):
        missing = "is no folder" if not folder.is_dir() else f"holds none of {', '.join(_OF_A_RUN)}, {FRONTIER}"
        raise CheckpointError(
            f"{folder}: {missing}; a report is made from a folder that `exptilt train` or `exptilt evaluate` wrote"
        )
    reader = RecordReader(folder)
    config_text, config = reader.config()
    info = reader.record(RunRecord, RUN)
    return RunContents(
        path=folder,
        name=(info.name if info else None) or folder.resolve().name,
        config_text=config_text,
        config=config,
        info=info,
        data=reader.record(DataReport, DATA),
        metrics=reader.metrics(),
        evaluation=reader.record(Evaluation, EVALUATION),
        further=_further(reader, folder),
        samples=reader.records(SideBySide, SAMPLES),
        frontier=reader.record(Frontier, FRONTIER),
        margins=reader.records(PairMargin, margins_of()),
        notices=reader.all_notices(),
    )


def _further(reader: RecordReader, folder: Path) -> dict[str, Evaluation]:
    prefix = EVALUATION.removesuffix(".json") + "-"
    paths = sorted(folder.glob(f"{prefix}*.json"))
    found = {path.stem.removeprefix(prefix): reader.record(Evaluation, path.name) for path in paths}
    return {name: evaluation for name, evaluation in found.items() if evaluation is not None}
