"""The inputs of one report: run folders, and frontier folders with the runs inside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from exptilt.errors import CheckpointError
from exptilt.run_folder.file_names import CONFIG, FRONTIER, JUDGED, MASK_EVALUATION, RUN, SAMPLES, STUDY_RUNS
from exptilt.run_folder.frontier_record import Frontier
from exptilt.run_folder.judged_record import Judged
from exptilt.run_folder.record_reader import RecordReader
from exptilt.run_folder.round_files import RoundFiles
from exptilt.run_folder.run_contents import RunContents, read_run
from exptilt.run_folder.run_record import RunRecord
from exptilt.run_folder.samples_record import SideBySide


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """All inputs of one report."""

    runs: tuple[RunContents, ...]
    frontier: Frontier | None = None
    judged: Judged | None = None
    """Win rates by judges."""
    samples: tuple[tuple[str, tuple[SideBySide, ...]], ...] = ()
    """Side-by-sides by the name of what they come from."""
    notices: tuple[str, ...] = ()
    title: str = ""
    rounds: RunRecord | None = None
    """run.json of a folder of rounds; `runs` are then the runs of its rounds."""


def read_inputs(folders: Sequence[Path]) -> Inputs:
    """Read run folders, frontier folders (frontier.json plus `runs/*/`) and judged.json into the inputs of one report.

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
    judged = [part.judged for part in parts if part.judged is not None]
    if len(judged) > 1:
        raise CheckpointError("two of the folders hold a judged.json; make one report for each")
    return Inputs(
        runs=_distinct(tuple(run for part in parts for run in part.runs)),
        frontier=frontiers[0] if frontiers else None,
        judged=judged[0] if judged else None,
        samples=tuple(pair for part in parts for pair in part.samples),
        notices=tuple(notice for part in parts for notice in part.notices),
        title=", ".join(part.title for part in parts),
        rounds=next((part.rounds for part in parts if part.rounds is not None), None),
    )


def _read_folder(folder: Path) -> Inputs:
    if (folder / JUDGED).is_file() and not (folder / CONFIG).is_file():
        reader = RecordReader(folder)
        judged = reader.record(Judged, JUDGED)
        return Inputs(runs=(), judged=judged, notices=reader.all_notices(), title=folder.resolve().name)
    if (folder / FRONTIER).is_file() and not (folder / CONFIG).is_file():
        reader = RecordReader(folder)
        frontier = reader.record(Frontier, FRONTIER)
        shown = reader.records(SideBySide, SAMPLES)
        folder_inputs = Inputs(runs=(), frontier=frontier, notices=reader.all_notices())
        inside = [path for path in sorted(folder.glob(f"{STUDY_RUNS}/*")) if path.is_dir() and not _is_of_masks(path)]
        parts = [folder_inputs, *(_of_run(read_run(path)) for path in inside)]
        title = folder.resolve().name
        samples = ((title, shown),) if shown else ()
        return Inputs(
            runs=tuple(run for part in parts for run in part.runs),
            frontier=frontier,
            samples=samples + tuple(pair for part in parts for pair in part.samples),
            notices=tuple(notice for part in parts for notice in part.notices),
            title=title,
        )
    rounds = RecordReader(folder).record(RunRecord, RUN)
    if rounds is not None and rounds.rounds:
        return _of_rounds(folder, rounds)
    return _of_run(read_run(folder))


def _is_of_masks(run: Path) -> bool:
    """Whether it is a run on masks, which has a page of its own."""
    return (run / MASK_EVALUATION).is_file()


def _of_rounds(folder: Path, rounds: RunRecord) -> Inputs:
    """The runs of rounds that have begun to train, in order."""
    runs = [RoundFiles(folder, one.number).run for one in rounds.rounds]
    parts = [_of_run(read_run(run)) for run in runs if (run / CONFIG).is_file()]
    return Inputs(
        runs=tuple(run for part in parts for run in part.runs),
        samples=tuple(pair for part in parts for pair in part.samples),
        notices=tuple(notice for part in parts for notice in part.notices),
        title=folder.resolve().name,
        rounds=rounds,
    )


def _of_run(run: RunContents) -> Inputs:
    return Inputs(
        runs=(run,),
        frontier=run.frontier,
        samples=((run.name, run.samples),) if run.samples else (),
        notices=tuple(f"{run.name}: {notice}" for notice in run.notices),
        title=run.name,
    )


def _distinct(runs: tuple[RunContents, ...]) -> tuple[RunContents, ...]:
    """Put the parent folder in front of names that several runs share, so that no two curves have one label."""
    names = [run.name for run in runs]
    return tuple(
        replace(run, name=f"{run.path.resolve().parent.name}/{run.name}") if names.count(run.name) > 1 else run
        for run in runs
    )
