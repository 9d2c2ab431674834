"""The model of a run as it was at a step, from its checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from exptilt.errors import CheckpointError
from exptilt.policies.adapters import with_adapter
from exptilt.policies.device import model_on_device
from exptilt.policies.start import load_start
from exptilt.run_folder.file_names import CHECKPOINTS
from exptilt.settings.recipe import Recipe
from exptilt.training.checkpoints.choice import fault_of, list_checkpoints, step_of
from exptilt.training.checkpoints.run_state import load_weights


def checkpoints_at(run: Path, steps: list[int]) -> dict[int, Path]:
    """The checkpoints of a run folder by step; all that are there where no step is named.

    Raises:
        CheckpointError: a step without a checkpoint, or one that cannot be read.
    """
    there = {step_of(path.name): path for path in list_checkpoints(run / CHECKPOINTS)}
    missing = [step for step in steps if step not in there]
    if missing or not there:
        known = ", ".join(str(step) for step in sorted(there)) or "none"
        what = f"no checkpoint of step {missing[0]}" if missing else "no checkpoint"
        raise CheckpointError(f"{run}: {what}; there are {known}. train.keep_checkpoints says how many a run keeps")
    taken = {step: there[step] for step in sorted(steps or there)}
    for path in taken.values():
        why = fault_of(path)
        if why is not None:
            raise CheckpointError(f"{path}: cannot be read ({why})")
    return taken


def model_at(recipe: Recipe, checkpoint: Path, tokenizer: Any) -> Any:
    """The run's model with the weights of a checkpoint, on this process's device, to sample and score.

    Args:
        recipe: of the run.
        checkpoint: one of its folders `checkpoints/step-...`.
        tokenizer: of the model.

    Raises:
        CheckpointError: the weights do not fit the recipe's model.
    """
    start = load_start(recipe.model, recipe.adapter, tokenizer, seed=recipe.seed)
    model = start.model
    if recipe.adapter is not None:
        model = with_adapter(model, recipe.adapter, seed=recipe.seed, revision=start.revision)
    load_weights(model, checkpoint)
    return model_on_device(model).eval().requires_grad_(False)
