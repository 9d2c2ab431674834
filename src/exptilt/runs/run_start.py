"""The start of a run: its folder is locked for this process, its recipe written, and its end recorded in every case."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from exptilt.errors import CheckpointError, DiskError, ExptiltError, Stopped
from exptilt.processes.interrupt import Terminated, ending_in_order
from exptilt.run_folder.file_names import CONFIG, RUN
from exptilt.run_folder.folder import RunFolder, manifest
from exptilt.run_folder.lock import claimed
from exptilt.runs.identity import refuse_another_run
from exptilt.runs.run_inputs import inputs_of
from exptilt.settings.load import dump
from exptilt.settings.mask_settings import MaskRecipe
from exptilt.settings.recipe import Recipe

_REASON = 2000
"""Most characters of an error that are kept in run.json."""


@dataclass(frozen=True)
class Outcome:
    """The state of a run when the function that runs it returns."""

    folder: RunFolder
    step: int
    finished: bool
    model: Any = None
    """The model that was trained, as it is in memory; None where nothing was left to do. With `train.best` the folder has others."""


@contextmanager
def started(recipe: Recipe | MaskRecipe, folder: RunFolder, processes: int, console: Console) -> Iterator[None]:
    """Hold the run folder while the block trains, measures and reports; called in the process that writes.

    The end is recorded however it comes, SIGTERM included.

    Raises:
        CheckpointError: the folder is not ours, overlaps with an input, holds another run, or another process is in it.
        DiskError: the folder cannot be written.
    """
    with claimed(folder.path, "run", inputs_of(recipe)) as caution:
        if caution is not None:
            console.print(f"warning: {caution}", style="yellow", soft_wrap=True, highlight=False)
        _make_way(recipe, folder, console)
        folder.write_text(CONFIG, dump(recipe))
        before = folder.run
        known = manifest(recipe.seed).given() | before.given() | {"reason": None}
        folder.write(RUN, before.updated(**known | {"status": "running", "processes": processes}))
        with _end_recorded(folder), ending_in_order():
            yield


def _make_way(recipe: Recipe | MaskRecipe, folder: RunFolder, console: Console) -> None:
    """Continue an earlier run in the folder, move it aside, or refuse if it is a different run."""
    if recipe.train.resume == "never":
        aside = folder.set_aside()
        if aside is not None:
            words = f"train.resume=never: the run that was here is now in {aside}; remove it when you need it no more"
            console.print(words, soft_wrap=True, highlight=False)
    elif recipe.train.resume == "auto":
        refuse_another_run(recipe, folder)


@contextmanager
def _end_recorded(folder: RunFolder) -> Iterator[None]:
    """Write into run.json that a run failed or was interrupted, with the reason; a run that has ended is left alone."""
    try:
        yield
    except BaseException as error:
        interrupted = isinstance(error, Stopped | KeyboardInterrupt | SystemExit)
        with suppress(DiskError, CheckpointError):  # the error on its way says more
            if folder.run.status == "running":
                folder.update_manifest(status="stopped" if interrupted else "failed", reason=_words(error))
        raise


def _words(error: BaseException) -> str:
    words = (
        str(error)
        if isinstance(error, ExptiltError | Terminated)
        else f"{type(error).__name__}: {error}".removesuffix(": ")
    )
    return words[:_REASON]
