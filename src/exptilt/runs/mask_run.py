"""A run on masks: the same loop, objective, callbacks, checkpoints and run folder, with a segmenter as the scorer."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from exptilt.data.masks.mask_set import MaskSet
from exptilt.errors import ConfigError, Stopped
from exptilt.processes.interrupt import losing_no_process
from exptilt.processes.launch import joined
from exptilt.processes.surroundings import left_as_found
from exptilt.reports.mask_page import write_mask_report
from exptilt.run_folder.folder import RunFolder
from exptilt.runs.identity import is_finished
from exptilt.runs.mask_measuring import measure_masks
from exptilt.runs.mask_rivals import rivals_of_run
from exptilt.runs.mask_session import MaskSession, open_masks
from exptilt.runs.run_start import Outcome, started
from exptilt.settings.mask_settings import MaskRecipe
from exptilt.training.callbacks.callback import Callback


def run_masks(
    recipe: MaskRecipe, console: Console | None = None, *, page: bool = True, callbacks: Sequence[Callback] = ()
) -> Outcome:
    """Train a segmenter by a recipe and measure it; a second call after an interruption goes on, after the end it does nothing.

    Args:
        recipe: the run.
        console: console for messages; default, standard error.
        page: whether to write the report.
        callbacks: your own, beside those of the recipe.

    Raises:
        ExptiltError: data cannot be used, the model is no segmenter, or a loss is not finite; the message is for a person.
    """
    if recipe.rounds is not None:
        raise ConfigError("rounds: this recipe is several runs; `exptilt train` or run_rounds runs them")
    with left_as_found(), ExitStack() as held:
        with joined(recipe.parallel) as world, losing_no_process(world):
            console = (console or Console(stderr=True)) if world.is_first else Console(quiet=True)
            folder = RunFolder(recipe.folder, writes=world.is_first)
            goes_on = recipe.train.resume != "never"
            if world.first(world.first_alone(lambda: goes_on and is_finished(folder, recipe))):
                console.print(f"{folder.path}: this run is finished; its model is in {folder.model}")
                return Outcome(folder, folder.run.steps or 0, finished=True)
            world.first_alone(lambda: held.enter_context(started(recipe, folder, world.size, console)))
            session = open_masks(recipe, folder, console, world, callbacks)
            progress = session.train()
        if progress.is_last and world.is_first:
            _finish(session, console, page)
    return Outcome(folder, progress.step, progress.is_last)


def _finish(session: MaskSession, console: Console, page: bool) -> None:
    """Train rivals where they are wanted, measure all as they were saved, and tell where the files are."""
    recipe, folder, test = session.recipe, session.folder, session.rows.test
    if len(test):
        measure_masks(recipe, folder, folder.model, test, _rivals(session, console))
    folder.update_manifest(status="done", finished=datetime.now(UTC).isoformat(timespec="seconds"))
    console.print(f"model: {folder.model}", soft_wrap=True, highlight=False)
    if page:
        console.print(f"report: {write_mask_report(folder.path)}", soft_wrap=True, highlight=False)


def _rivals(session: MaskSession, console: Console) -> dict[str, Path]:
    if not session.recipe.evaluate.rivals:
        return {}
    if session.world.size > 1:
        command = f"exptilt evaluate {session.folder.path} evaluate.rivals=true"
        console.print(f"rivals are trained by one process: {command}", soft_wrap=True, highlight=False)
        return {}
    return train_rivals(session.recipe, session.rows.train, console)


def train_rivals(recipe: MaskRecipe, rows: MaskSet, console: Console) -> dict[str, Path]:
    """Train the rivals of a run, each in a folder of its own below the run's; those that are trained take no time.

    Args:
        recipe: of the run.
        rows: that it was trained on.
        console: console for messages.

    Returns:
        Folders of their segmenters, by name.

    Raises:
        Stopped: somebody asked to stop.
    """
    models: dict[str, Path] = {}
    for name, rival in rivals_of_run(recipe, rows).items():
        console.print(f"rival: {name}", highlight=False)
        outcome = run_masks(rival, Console(quiet=True), page=False)
        if not outcome.finished:
            raise Stopped(f"stopped in the rival {name!r}; give the same command again to go on")
        models[name] = outcome.folder.model
    return models
