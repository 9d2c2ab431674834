"""What a run on masks takes: its steps, and their time and memory measured on the first images of its own data."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

from exptilt.data.groups import Group
from exptilt.data.masks.image_files import read_image
from exptilt.data.masks.manifest import MaskRow, read_images, read_rows
from exptilt.data.masks.mask_set import Palette, Pixels, group_of, read_pixels
from exptilt.data.problems import RowError
from exptilt.errors import DataError
from exptilt.policies.segmenters.mask_scorer import CountedPixels, MaskScorer
from exptilt.policies.segmenters.segmenter import Segmenter
from exptilt.policies.segmenters.segmenter_files import load_segmenter
from exptilt.runs.mask_session import channels_of_recipe, mask_loss, num_classes
from exptilt.runs.run_batches import steps_in
from exptilt.settings.mask_settings import MaskRecipe
from exptilt.wording import counted

_STATES = {"adamw": 2.0, "adamw_8bit": 0.5, "adafactor": 0.1, "rmsprop": 1.0}
"""Numbers of 4 bytes that an optimizer keeps for each trained weight."""


@dataclass(frozen=True, kw_only=True)
class MaskPlan:
    """One run on masks, or one round of several."""

    weights: int
    trained: int
    rows: int
    """Training rows; of rounds, the most there can be in one."""
    steps: int
    rounds: int
    step_seconds: float
    """One step, the forward and backward passes of all its images."""
    score_seconds: float
    """Scoring the reference once before step 1."""
    memory: dict[str, int]
    """Bytes by what they hold."""
    available: int
    """Bytes that this machine has free."""

    @property
    def seconds(self) -> float:
        """All steps of all rounds, without labels and measuring."""
        return self.rounds * (self.steps * self.step_seconds + self.score_seconds)

    @property
    def fits(self) -> bool:
        """Whether the memory is there."""
        return sum(self.memory.values()) <= self.available

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self) | {"seconds": self.seconds, "fits": self.fits}

    def in_words(self) -> list[str]:
        """For people."""
        parts = ", ".join(f"{name} {size / 1e6:.3g} MB" for name, size in self.memory.items())
        need = f"{sum(self.memory.values()) / 1e9:.3g} GB of {self.available / 1e9:.3g} GB that are free"
        of_rounds = f"{counted(self.rounds, 'round')}, each " if self.rounds > 1 else ""
        return [
            f"segmenter: {self.weights:,} weights, {self.trained:,} of them trained",
            f"{of_rounds}{counted(self.rows, 'row')}, {counted(self.steps, 'step')} of {self.step_seconds:.3g} s, measured here; "
            f"reference {self.score_seconds:.3g} s",
            f"in all about {self.seconds:.3g} s, without labels, held-out images and rivals",
            f"memory: {parts}",
            f"{'it fits' if self.fits else 'it does not fit'}: {need}" + ("" if self.fits else "; lower batch.images"),
        ]


def plan_masks(recipe: MaskRecipe) -> MaskPlan:
    """Measure one forward and backward pass on the first image, and count.

    Raises:
        DataError: no row, or the first one cannot be read.
    """
    segmenter = load_segmenter(recipe.segmenter, num_classes(recipe), recipe.seed)
    rows, first = _rows_of(recipe)
    images = min(recipe.batch.images, recipe.batch.size, max(1, rows))
    scorer = MaskScorer(segmenter, CountedPixels(recipe.data.units, recipe.data.reduce))
    group = group_of(*first)
    forward, both, activations = _measured(scorer, [group] * images)
    weights = sum(weight.numel() for weight in segmenter.parameters())
    trained = weights if recipe.segmenter.trains == "all" else num_classes(recipe)
    each = 4 * trained
    memory = {
        "weights": 4 * weights,
        "gradients": each,
        "optimizer": int(_STATES[recipe.optim.name] * each),
        "activations": activations,
        "images and masks": rows * (first[1].image.nbytes + first[1].masks.nbytes),
    }
    per_epoch = -(-rows // recipe.batch.size)
    return MaskPlan(
        weights=weights,
        trained=trained,
        rows=rows,
        steps=steps_in(recipe.train, per_epoch),
        rounds=1 if recipe.rounds is None else recipe.rounds.num_rounds,
        step_seconds=both * min(recipe.batch.size, max(1, rows)) / images,
        score_seconds=forward * rows / images if mask_loss(recipe).needs_reference else 0.0,
        memory=memory,
        available=_free(segmenter),
    )


def _rows_of(recipe: MaskRecipe) -> tuple[int, tuple[MaskRow, Pixels]]:
    """Number of rows, and the first that can be read; of rounds, an image with masks that are nowhere different."""
    palette, channels = (
        Palette.of(recipe.data.classes, recipe.data.ignore, recipe.data.foreground),
        channels_of_recipe(recipe),
    )
    if recipe.rounds is None:
        rows: Sequence[Any] = read_rows(recipe.data.train, mask_loss(recipe).kind, recipe.data.limit)
        each = 1
    else:
        rows = read_images(recipe.rounds.images or recipe.data.train, recipe.data.limit)
        each = recipe.rounds.num_pairs
    for row in rows:
        if isinstance(row, MaskRow):
            try:
                return len(rows) * each, (row, _pixels_of(row, palette, channels))
            except RowError:
                continue
    raise DataError(f"{recipe.data.train}: no row can be read; `exptilt doctor` says what is wrong with each")


def _pixels_of(row: MaskRow, palette: Palette, channels: int) -> Pixels:
    if row.masks:
        return read_pixels(row, palette, channels)
    image = read_image(row.image, channels)
    masks = np.zeros((2, *image.shape[1:]), np.int32)
    masks[1] = 1
    return Pixels(image, masks, None)


def _measured(scorer: MaskScorer, groups: Sequence[Group[Any]]) -> tuple[float, float, int]:
    """Seconds of a forward pass, of forward and backward, and bytes that are kept for the latter."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        scorer(groups).sum().sum().backward()  # type: ignore[no-untyped-call]
    of_weights = {weight.untyped_storage().data_ptr() for weight in scorer.model.parameters()}
    began = time.perf_counter()
    logps = scorer(groups)
    middle = time.perf_counter()
    logps.sum().sum().backward()  # type: ignore[no-untyped-call]
    end = time.perf_counter()
    return middle - began, end - began, sum(size for place, size in kept.items() if place not in of_weights)


def _free(segmenter: Segmenter) -> int:
    if segmenter.device.type == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    return int(psutil.virtual_memory().available)
