"""The loop: steps over batches, stopped and resumed without a trace.

    for each step:  groups -> micro-batches -> gradient of the global batch, finite and clipped -> optimizer -> schedule

`Run` holds all parts of a run, and `run_state` defines the contents of its checkpoints. Losses, data and models know
nothing of this file.
"""

from __future__ import annotations

import logging
import time

from transformers import set_seed

from exptilt.errors import ServerError
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
        The progress of the run; `is_last` tells whether it finished.

    Raises:
        NonFiniteError: a loss or gradient is not finite; no weight was moved by that step.
        CheckpointError: the checkpoint to resume from belongs to another recipe, or none can be read or written.
        DiskError: the disk has no room for the run's checkpoints.
        ServerError: a server that draws completions is gone; a checkpoint was left.
        TrainingError: another process is gone.
    """
    settings = run.settings
    checkpoints = Checkpoints(run.checkpoints, settings.keep_checkpoints, run.world, settings.save_async)
    with losing_no_process(run.world), finishing(checkpoints):
        set_seed(seed_of(run.seed, run.world.rank))
        progress = _resume(run, checkpoints)
        run.model.train()
        try:
            for callback in run.callbacks:
                callback.on_start(progress)
            _take_steps(run, progress, checkpoints)
        finally:
            for callback in run.callbacks:
                callback.on_end(progress)
    return progress


def _take_steps(run: Run, progress: Progress, checkpoints: Checkpoints) -> None:
    """Take the remaining steps."""
    saved, asked = progress.step, False
    with graceful_stop() as stop:
        while not progress.is_last and not asked:
            try:
                sums = _one_step(run, progress.step)
            except ServerError:  # before any weight moved: nothing that was trained is lost while a server is away
                if saved != progress.step:
                    checkpoints.save(progress.step, state_of(run, progress), random_state())
                raise
            progress.step += 1
            for callback in run.callbacks:
                callback.after_step(progress, sums)
            if progress.step % run.settings.save_every == 0 or progress.is_last:
                _save(run, progress, checkpoints)
                saved = progress.step
            asked, is_writing = run.world.any(bool(stop), checkpoints.is_writing)
            if not is_writing:
                checkpoints.settle()
        if saved != progress.step:
            _save(run, progress, checkpoints)


def _save(run: Run, progress: Progress, checkpoints: Checkpoints) -> None:
    checkpoints.save(progress.step, state_of(run, progress), random_state())
    for callback in run.callbacks:
        callback.on_checkpoint(progress)


def _one_step(run: Run, step: int) -> Sums:
    began = time.perf_counter()
    micro_batches = run.batches.step(step)
    run.optimizer.zero_grad(set_to_none=True)
    scorers = (run.policy, run.reference)
    weights = [parameter for group in run.optimizer.param_groups for parameter in group["params"]]
    sums = clipped_gradient(weights, micro_batches, run.objective, scorers, run.world, run.max_grad_norm)
    learning_rate = float(run.schedule.get_last_lr()[0])
    run.optimizer.step()
    run.schedule.step()
    sums.merge(run.drawn(step))
    run.objective.advance(sums)
    sums.add("lr", learning_rate, 1)
    sums.count("seconds", time.perf_counter() - began)
    return sums


def _resume(run: Run, checkpoints: Checkpoints) -> Progress:
    """Put the run at its newest whole checkpoint, or at the start; checkpoints past that step are moved aside."""
    choice = checkpoints.choose() if run.settings.resume != "never" else Choice(None)
    progress = Progress(step=0, num_steps=run.num_steps, steps_per_epoch=run.batches.num_steps)
    checkpoint = choice.taken
    if checkpoint is not None:
        progress = run.world.all_or_none(lambda: restore(run, checkpoint))
    moved = checkpoints.set_aside_after(progress.step)
    if run.world.is_first and (choice.passed_over or moved):
        aside = f"moved aside: {', '.join(str(path) for path in moved)}" if moved else ""
        logger.warning("; ".join(words for words in (choice.in_words(), aside) if words))
    left = progress.num_steps - progress.step
    checkpoints.require_space(state_bytes(run), -(-left // run.settings.save_every))
    return progress
