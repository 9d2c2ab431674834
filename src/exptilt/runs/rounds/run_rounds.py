"""All rounds of a recipe in one folder: begun, gone on with, summed up."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from exptilt.errors import ConfigError, Waiting
from exptilt.processes.surroundings import left_as_found
from exptilt.run_folder.folder import RunFolder
from exptilt.run_folder.round_files import RoundFiles
from exptilt.run_folder.run_record import RoundRecord, SampledPolicy
from exptilt.runs.identity import is_finished
from exptilt.runs.rounds.mask_rounds import MaskRounds
from exptilt.runs.rounds.round_steps import RoundSteps, follow
from exptilt.runs.rounds.text_rounds import TextRounds
from exptilt.runs.run_start import Outcome, started
from exptilt.settings.any_recipe import AnyRecipe
from exptilt.settings.mask_settings import MaskRecipe


def run_rounds(recipe: AnyRecipe, console: Console | None = None, *, page: bool = True) -> Outcome:
    """Draw completions, label and train as often as the recipe says, each time from the model just trained; texts or masks.

    A second call after an interruption, or once people have voted, goes on; after the end it does nothing. A recipe whose
    number of rounds was raised goes on from its last round.

    Args:
        recipe: has `rounds`.
        console: console for messages; default, standard error.
        page: whether to write the reports.

    Returns:
        The folder of all rounds; its `model` is that of the last round.

    Raises:
        Waiting: people are to vote first.
        Stopped: somebody asked to stop.
        ExptiltError: prompts, images, reward, judge or a run cannot be used, or a round prefers nothing; earlier rounds stay.
    """
    console = console or Console(stderr=True)
    if recipe.rounds is None:
        raise ValueError("this recipe has no rounds")
    folder, num_rounds = RunFolder(recipe.folder), recipe.rounds.num_rounds
    _require_one_process()
    if recipe.train.resume != "never" and is_finished(folder, recipe):
        console.print(f"{folder.path}: these rounds are finished; the model is in {folder.model}", soft_wrap=True)
        return Outcome(folder, folder.run.steps or 0, finished=True)
    notes = RoundNotes(folder)
    steps: RoundSteps
    if isinstance(recipe, MaskRecipe):
        steps = MaskRounds(recipe, notes.record, notes.note, console, run_rounds, page)
    else:
        steps = TextRounds(recipe, notes.record, notes.note, notes.note_end, console, page)
    work = steps.work()  # before a folder is made, and before anything is drawn
    with left_as_found(), started(recipe, folder, 1, console):
        console.print("\n".join(work), soft_wrap=True, highlight=False)
        try:
            follow(steps, num_rounds)
        except Waiting as waiting:
            folder.update_manifest(status="waiting", reason=str(waiting))
            raise
        last = RoundFiles(folder.path, num_rounds)
        _point_at(folder.model, last.model)
        step = RunFolder(last.run).run.steps or 0
        folder.update_manifest(status="done", finished=datetime.now(UTC).isoformat(timespec="seconds"), steps=step)
        if page:
            console.print(f"report: {steps.report()}", soft_wrap=True, highlight=False)
    return Outcome(folder, step, finished=True)


class RoundNotes:
    """What is known of rounds, in run.json of the folder of all of them.

    Args:
        folder: of all rounds.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    def record(self, number: int) -> RoundRecord:
        """What is known of a round; of a new one nothing but its number."""
        known = {one.number: one for one in self._folder.run.rounds}
        return known.get(number, RoundRecord(number=number))

    def note(self, record: RoundRecord) -> None:
        """Write what is known of a round."""
        known = {one.number: one for one in self._folder.run.rounds} | {record.number: record}
        self._folder.update_manifest(rounds=tuple(known[number] for number in sorted(known)))

    def note_end(self, policy: SampledPolicy) -> None:
        """Write what is known of the last model."""
        self._folder.update_manifest(after_rounds=policy)


def _require_one_process() -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "rounds: sampling and labelling run in one process; start `exptilt train` without torchrun, or take the steps one by "
            "one: exptilt sample, exptilt pair, torchrun -m exptilt train"
        )


def _point_at(link: Path, model: Path) -> None:
    """Let `model` of the folder be the last round's, without a second copy; a file system without links has none."""
    if link.exists() and not link.is_symlink():
        return
    beside = link.with_name(f".{link.name}-{os.getpid()}")
    with suppress(OSError):
        beside.symlink_to(os.path.relpath(model, link.parent))
        beside.replace(link)
