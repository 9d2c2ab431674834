"""mask_evaluation.json: what was measured of a segmenter on held-out images."""

from __future__ import annotations

from pydantic import Field

from exptilt.run_folder.estimate_record import Estimate
from exptilt.run_folder.record import FilePart, FileRecord

TRUTH = "true masks"
"""Name of what learned from true masks: the ceiling beside rivals."""


class MaskMeasures(FilePart):
    """One segmenter on the held-out images."""

    name: str = ""
    dice: Estimate | None = None
    """Mean over images of the mean over classes but the background, at the likeliest class."""
    gain: Estimate | None = None
    """Mean over images of Dice less that of the reference on the same image."""
    dice_of_class: dict[str, Estimate] = Field(default_factory=dict)
    iou_of_class: dict[str, Estimate] = Field(default_factory=dict)
    dice_at_best: Estimate | None = None
    """Of two classes, at the threshold that is best over these images: what is left is shape, not the operating point."""
    best_threshold: float | None = None
    boundary: Estimate | None = None
    """Boundary F of the foreground."""
    nll: Estimate | None = None
    """Nats a pixel."""
    ece: float | None = None
    reliability: tuple[tuple[float, float, float], ...] = ()
    """(confidence, accuracy, pixels) of each bin that holds a pixel."""
    foreground: Estimate | None = None
    """Share of pixels that are not background."""
    kl: Estimate | None = None
    """KL(segmenter || reference), nats a pixel, exact."""
    accuracy: Estimate | None = None
    """Held-out pairs whose margin is positive. No sign of quality: a collapsed segmenter can have .94."""
    chosen_on_difference: Estimate | None = None
    """Nats a pixel, log-probability of the chosen mask where the masks of a pair differ."""
    agreement: Estimate | None = None
    rejected_on_difference: Estimate | None = None


class MaskEvaluation(FileRecord):
    """mask_evaluation.json: the trained segmenter, and others beside it."""

    level: float | None = None
    """Of intervals, which are over images."""
    num_images: int | None = None
    num_targets: int | None = None
    """Images with a true mask."""
    classes: tuple[str, ...] = ()
    tiles: tuple[str, ...] = ()
    """What pictures of held-out rows show, from left to right."""
    policy: MaskMeasures = MaskMeasures()
    reference: MaskMeasures = MaskMeasures()
    rivals: tuple[MaskMeasures, ...] = ()
    """Trained on the same rows: imitation of winners, one bias a class, coin-flip labels, true masks."""
