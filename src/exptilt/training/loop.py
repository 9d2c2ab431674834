"""The loop: steps over batches, stopped and resumed without a trace.

    for each step:  groups -> micro-batches -> gradient of the global batch, finite and clipped -> optimizer -> schedule

Everything a run consists of is in `Run`; what a checkpoint of it holds, in `run_state`. Losses, data and models know
nothing of this file.
"""

from __future__ import annotations

import logging
import time

from transformers import set_seed

from exptilt.processes.interrupt import graceful_stop, losing_no_process
from exptilt.training.callbacks.callback import Progress
from exptilt.training.checkpoints.checkpoint_folder import Checkpoints, finishing
from exptilt.training.checkpoints.choice import Choice
from exptilt.training.checkpoints.run_state import random_state, restore, seed_of, state_bytes, state_of
from exptilt.training.run import Run
from exptilt.training.step import clipped_gradient
from exptilt.training.sums import Sums

logger = logging.getLogger(__name__)


def train(run: Run) -> Progress:
    """Train until all steps are done or a process is asked to stop; a stop leaves a checkpoint.

    Returns:
        Where the run stands; `is_last` says whether it finished.

    Raises:
        NonFiniteError: a loss or gradient is not finite; no weight was moved by that step.
        CheckpointError: the checkpoint to resume from belongs to another recipe, or none can be read or written.
        DiskError: the disk has no room for the run's checkpoints.
        TrainingError: another process is gone.
    """
    settings = run.settings
    checkpoints = Checkpoints(run.checkpoints, settings.keep_checkpoints, run.world, settings.save_async)
    with losing_no_process(run.world), finishing(checkpoints):
        set_seed(seed_of(run.seed, run.world.rank))
        place = _resume(run, checkpoints)
        run.model.train()
        try:
            for callback in run.callbacks:
                callback.on_start(place)
            _take_steps(run, place, checkpoints)
        finally:
            for callback in run.callbacks:
                callback.on_end(place)
    return place


def _take_steps(run: Run, place: Progress, checkpoints: Checkpoints) -> None:
    """Take the steps that are left."""
    saved, asked = place.step, False
    with graceful_stop() as stop:
        while not place.is_last and not asked:
            sums = _one_step(run, place.step)
            place.step += 1
            for callback in run.callbacks:
                callback.after_step(place, sums)
            if place.step % run.settings.save_every == 0 or place.is_last:
                checkpoints.save(place.step, state_of(run, place), random_state())
                saved = place.step
            asked, is_writing = run.world.any(bool(stop), checkpoints.is_writing)
            if not is_writing:
                checkpoints.settle()
        if saved != place.step:
            checkpoints.save(place.step, state_of(run, place), random_state())


def _one_step(run: Run, step: int) -> Sums:
    began = time.perf_counter()
    micro_batches = run.batches.step(step)
    run.optimizer.zero_grad(set_to_none=True)
    scorers = (run.policy, run.reference)
    weights = [one for group in run.optimizer.param_groups for one in group["params"]]
    sums = clipped_gradient(weights, micro_batches, run.objective, scorers, run.world, run.max_grad_norm)
    learning_rate = float(run.schedule.get_last_lr()[0])
    run.optimizer.step()
    run.schedule.step()
    run.objective.advance()
    sums.add("lr", learning_rate, 1)
    sums.count("seconds", time.perf_counter() - began)
    return sums


def _resume(run: Run, checkpoints: Checkpoints) -> Progress:
    """Put the run where its newest whole checkpoint stands, or at the start; what lies past that is moved aside."""
    choice = checkpoints.choose() if run.settings.resume != "never" else Choice(None)
    place = Progress(step=0, num_steps=run.num_steps, steps_per_epoch=run.batches.num_steps)
    checkpoint = choice.taken
    if checkpoint is not None:
        place = run.world.all_or_none(lambda: restore(run, checkpoint))
    moved = checkpoints.set_aside_after(place.step)
    if run.world.is_first and (choice.passed_over or moved):
        aside = f"moved aside: {', '.join(str(path) for path in moved)}" if moved else ""
        logger.warning("; ".join(words for words in (choice.in_words(), aside) if words))
    left = place.num_steps - place.step
    checkpoints.require_space(state_bytes(run), -(-left // run.settings.save_every))
    return place
