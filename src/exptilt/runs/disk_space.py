"""What a run writes: its checkpoints at the moment when most of them are there, and its models."""

from __future__ import annotations

import math

from exptilt.settings.recipe import Recipe

_OPTIMIZER_SIZES = {"adamw": 2.0, "adamw_8bit": 0.5, "rmsprop": 1.0}
"""The size of an optimizer's state, in units of the weights it moves; that of Adafactor is next to nothing."""


def disk_space(recipe: Recipe, weights: tuple[int, int], steps: int, *, trained: int, saved: int) -> float:
    """Bytes on disk of one phase of a run at the most.

    A new checkpoint is written whole before the oldest goes, so one more than `keep_checkpoints` is there at that moment.
    Frozen weights under an adapter are in no checkpoint and in no model folder. `train.best` keeps a model of its own.

    Args:
        recipe: of the phase.
        weights: how many there are, and how many of them are trained.
        steps: of the phase.
        trained: bytes of a weight in training.
        saved: bytes of a weight in the model folder of a full model.
    """
    checkpoints = min(recipe.train.keep_checkpoints + 1, math.ceil(steps / recipe.train.save_every))
    copies = 1 + _OPTIMIZER_SIZES.get(recipe.optim.name, 0.0) + bool(recipe.reference.move_every)
    total, moved = weights
    model = total * saved if recipe.adapter is None else moved * trained
    return checkpoints * copies * moved * trained + model * (2 if recipe.train.best else 1)
