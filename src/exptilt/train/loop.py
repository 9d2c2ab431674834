"""The loop: steps over batches, stopped and resumed without a trace.

    for each step:  groups -> micro-batches -> gradient of the global batch -> finite? -> clip -> optimizer -> schedule

Everything a run consists of is in `Run`; everything a checkpoint holds is in `_state`. Losses, data and models know
nothing of this file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from transformers import set_seed

from exptilt.config import config
from exptilt.errors import CheckpointError
from exptilt.train.callbacks import Callback, Progress
from exptilt.train.checkpoint import (
    discard_after,
    load_checkpoint,
    newest_checkpoint,
    random_state,
    restore_random_state,
    save_checkpoint,
)
from exptilt.train.interrupt import graceful_stop
from exptilt.train.objective import Objective
from exptilt.train.step import MicroBatches, Scorer, accumulate, require_finite_gradient
from exptilt.train.sums import Sums


@config
class TrainConfig:
    """How long to train, and what to write on the way."""

    epochs: float = 1.0
    """Passes over the data, > 0; parts of a pass count."""
    max_steps: int | None = None
    """Stop after this many optimizer steps, if that comes first."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    eval_every: int = 0
    """Steps between held-out evaluations; 0 evaluates at the start and at the end only."""
    save_every: int = 200
    """Steps between checkpoints; one is always written when the run is asked to stop."""
    keep_checkpoints: int = 2
    """How many checkpoints to keep, >= 1."""
    resume: Literal["auto", "never", "force"] = "auto"
    """auto goes on from the newest complete checkpoint of an equal recipe; never starts anew; force ignores changes."""
    stop_if_loss_above: float = 1e6
    """A mean loss of one step beyond this stops the run."""

    def __post_init__(self) -> None:
        if not self.epochs > 0:
            raise ValueError(f"epochs must be > 0, got {self.epochs}")
        for name in ("log_every", "save_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.max_steps is not None and self.max_steps < 1:
            raise ValueError(f"max_steps must be >= 1, got {self.max_steps}")
        if self.eval_every < 0:
            raise ValueError(f"eval_every must be >= 0, got {self.eval_every}")


class BatchSource(Protocol):
    """The batches of a run, addressed by step so that a resume needs no replay."""

    @property
    def num_steps(self) -> int:
        """Optimizer steps in one pass over the data."""

    def step(self, step: int) -> MicroBatches:
        """The micro-batches of optimizer step `step`, counted from 0 over all epochs."""


@dataclass
class Run:
    """One training run, ready to go."""

    model: nn.Module
    objective: Objective
    policy: Scorer
    reference: Scorer | None
    batches: BatchSource
    optimizer: torch.optim.Optimizer
    schedule: LRScheduler
    settings: TrainConfig
    max_grad_norm: float
    num_steps: int
    folder: Path
    identity: Mapping[str, str]
    """What must be equal for a resume: fingerprints of recipe, data and reference by name."""
    callbacks: Sequence[Callback] = ()
    seed: int = 0
    """Of dropout, and of whatever else draws from the global generators."""

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints lie."""
        return self.folder / "checkpoints"


def train(run: Run) -> Progress:
    """Train until all steps are done or the process is asked to stop; a stop leaves a checkpoint.

    Returns:
        Where the run stands; `is_last` says whether it finished.

    Raises:
        NonFiniteError: a loss or gradient is not finite; no weight was moved by that step.
        CheckpointError: the checkpoint to resume from belongs to another recipe, or none can be written.
    """
    set_seed(run.seed)
    place = Progress(step=_resume(run), num_steps=run.num_steps, steps_per_epoch=run.batches.num_steps)
    saved = place.step
    run.model.train()
    for callback in run.callbacks:
        callback.on_start(place)
    with graceful_stop() as stop:
        while not place.is_last and not stop:
            sums = _one_step(run, place.step)
            place.step += 1
            for callback in run.callbacks:
                callback.after_step(place, sums)
            if place.step % run.settings.save_every == 0 or place.is_last:
                saved = _save(run, place)
        if saved != place.step:  # asked to stop, which may be at any moment of the step
            _save(run, place)
    return place


def _one_step(run: Run, step: int) -> Sums:
    micro_batches = run.batches.step(step)
    run.optimizer.zero_grad(set_to_none=True)
    sums = accumulate(run.model, micro_batches, run.objective, run.policy, run.reference)
    norm = float(nn.utils.clip_grad_norm_(run.model.parameters(), run.max_grad_norm))
    scorers = (run.policy, run.reference)
    require_finite_gradient(run.model, norm, micro_batches, run.objective, scorers)
    learning_rate = float(run.schedule.get_last_lr()[0])
    run.optimizer.step()
    run.schedule.step()
    run.objective.advance()
    sums.add("grad_norm", norm, 1)
    sums.add("lr", learning_rate, 1)
    sums.add("tokens", sum(group.num_tokens for groups in micro_batches for group in groups), 1)
    return sums


def _save(run: Run, place: Progress) -> int:
    save_checkpoint(run.checkpoints, place.step, _state(run, place), run.settings.keep_checkpoints)
    return place.step


def _state(run: Run, place: Progress) -> dict[str, Any]:
    """Everything a resumed run needs to be the run that was never stopped."""
    return {
        "step": place.step,
        "identity": dict(run.identity),
        "model": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "schedule": run.schedule.state_dict(),
        "loss": dict(run.objective.state),
        "callbacks": [[type(callback).__name__, callback.state()] for callback in run.callbacks],
        "random": random_state(),
    }


def _resume(run: Run) -> int:
    """Put the run where its newest complete checkpoint stands; returns the steps done."""
    checkpoint = newest_checkpoint(run.checkpoints) if run.settings.resume != "never" else None
    if checkpoint is None:
        discard_after(run.checkpoints, 0)
        return 0
    state = load_checkpoint(checkpoint, next(run.model.parameters()).device)
    changed = [name for name, value in run.identity.items() if state["identity"].get(name) != value]
    if changed and run.settings.resume != "force":
        raise CheckpointError(
            f"{checkpoint}: was written with another {' and another '.join(changed)}; choose another output folder, "
            "or train.resume=never to start anew, or train.resume=force to go on all the same"
        )
    run.model.load_state_dict(state["model"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.schedule.load_state_dict(state["schedule"])
    run.objective.state.update(state["loss"])
    _restore_callbacks(run.callbacks, state["callbacks"])
    restore_random_state(state["random"])
    discard_after(run.checkpoints, state["step"])
    return int(state["step"])


def _restore_callbacks(callbacks: Sequence[Callback], states: list[list[Any]]) -> None:
    """By class and order, so that a forced resume may have other callbacks."""
    left = list(states)
    for callback in callbacks:
        found = next((kept for kept in left if kept[0] == type(callback).__name__), None)
        if found is not None:
            left.remove(found)
            callback.restore(found[1])
