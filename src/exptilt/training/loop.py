"""The loop: steps over batches, stopped and resumed without a trace.

    for each step:  groups -> micro-batches -> gradient of the global batch, finite and clipped -> optimizer -> schedule

`Run` holds all parts of a run, and `run_state` defines the contents of its checkpoints. Losses, data and models know
nothing of this file.
"""

from __future__ import annotations

import logging
import time

import torch
from torch import nn
from transformers import set_seed

from exptilt.errors import NonFiniteError, ServerError
from exptilt.policies.scorer import MicroBatches
from exptilt.processes.interrupt import graceful_stop, losing_no_process
from exptilt.processes.world import World
from exptilt.training.callbacks.callback import Progress
from exptilt.training.checkpoints.checkpoint_folder import Checkpoints, finishing
from exptilt.training.checkpoints.choice import Choice
from exptilt.training.checkpoints.run_state import random_state, restore, seed_of, state_bytes, state_of
from exptilt.training.learner import Learner
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
        for learner in run.learners:
            learner.model.train()
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
    sums = clipped_gradient(
        _weights(run.optimizer), micro_batches, run.objective, scorers, run.world, run.max_grad_norm
    )
    run.drawn(step, sums)
    if run.critic is not None:
        sums.merge(_critics_gradient(run.critic, micro_batches, run.world))
    sums.add("lr", float(run.schedule.get_last_lr()[0]), 1)
    for learner in run.learners:  # here weights move, and all that is refused is behind
        learner.optimizer.step()
        learner.schedule.step()
        learner.objective.advance(sums)
    sums.count("seconds", time.perf_counter() - began)
    return sums


def _critics_gradient(critic: Learner, micro_batches: MicroBatches, world: World) -> Sums:
    """Leave the critic's gradient in its weights; its metrics."""
    critic.optimizer.zero_grad(set_to_none=True)
    try:
        measured = clipped_gradient(
            _weights(critic.optimizer),
            micro_batches,
            critic.objective,
            (critic.scorer, None),
            world,
            critic.max_grad_norm,
        )
    except NonFiniteError as error:
        told, raised = error.told, NonFiniteError(f"critic: {error}")
        raised.told = told
        raise raised from error
    sums = Sums()
    for name in ("loss", "grad_norm"):
        sums.add(f"critic/{name}", *measured.totals[name])
    sums.add("critic/lr", float(critic.schedule.get_last_lr()[0]), 1)
    return sums


def _weights(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


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
