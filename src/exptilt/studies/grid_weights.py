"""The weights that a study measures: a run's measured checkpoints, without the parts that only a resume needs."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from exptilt.disk import writing
from exptilt.errors import CheckpointError
from exptilt.run_folder.file_names import CHECKPOINTS, STUDY_WEIGHTS
from exptilt.training.checkpoints.choice import fault_of, list_checkpoints
from exptilt.training.checkpoints.run_state import load_weights, trained_weights


def keep_weights(run: Path, every: int, start: Callable[[], Any]) -> None:
    """Put the weights of a finished run's checkpoints into `weights`, and remove all its checkpoints but the last.

    An optimizer's state is twice as large as the weights, and a finished run no longer needs it.

    Args:
        run: its folder.
        every: steps between measured checkpoints; 0 keeps the end only.
        start: gives a model with the weights the run started from.

    Raises:
        CheckpointError: the run has neither weights nor a checkpoint, or one of its checkpoints cannot be read.
        DiskError: the weights cannot be written.
    """
    complete = list_checkpoints(run / CHECKPOINTS)[::-1]
    for path in complete:  # without this one, another would pass for the run's end
        why = fault_of(path)
        if why is not None:
            raise CheckpointError(
                f"{path}: cannot be read ({why}); nothing was deleted. Mend that, or remove the run's folder to train it again"
            )
    folder = run / STUDY_WEIGHTS
    for checkpoint in complete:
        target = folder / f"{checkpoint.name}.pt"
        is_measured = checkpoint == complete[-1] or (every and step_of(checkpoint) % every == 0)
        if is_measured and not target.exists():
            folder.mkdir(exist_ok=True)
            model = start()
            load_weights(model, checkpoint)
            with writing(target) as file:
                torch.save(trained_weights(model), file)
    for checkpoint in complete[:-1]:
        shutil.rmtree(checkpoint)
    kept_weights(run, every)


def with_weights(model: Any, path: Path) -> Any:
    """Load the weights of one file into a model, and return it."""
    targets = trained_weights(model)
    with torch.no_grad():
        for name, weights in torch.load(path, map_location="cpu", weights_only=True).items():
            targets[name].copy_(weights)
    return model


def kept_weights(run: Path, every: int) -> list[Path]:
    """The weight files to measure, in order of steps; the last is the run's end.

    Raises:
        CheckpointError: there are no weights.
    """
    files = sorted((run / STUDY_WEIGHTS).glob("step-*.pt"))
    if not files:
        raise CheckpointError(
            f"{run}: holds neither weights nor a complete checkpoint; remove the run's folder to train it again"
        )
    return [path for path in files[:-1] if every and step_of(path) % every == 0] + files[-1:]


def step_of(path: Path) -> int:
    """The step in a name such as step-00000040.pt."""
    return int(path.stem.rpartition("-")[2])


def digest_of_file(path: Path) -> str:
    """Fingerprint of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()
