"""Pictures of held-out rows: image, both masks, where they differ, the mask before and after, and the shift of logits."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image

from exptilt.data.masks.mask_set import Pixels
from exptilt.evaluation.masks.mask_evaluation import predicted
from exptilt.policies.segmenters.mask_scorer import as_floats
from exptilt.policies.segmenters.segmenter import Segmenter

_SIDE = 128
"""Least pixels of a tile's side; smaller images are enlarged by a whole factor."""
_CLASSES = np.array(
    [[24, 26, 32], [86, 156, 214], [230, 159, 0], [0, 158, 115], [204, 121, 167], [213, 94, 0], [240, 228, 66]],
    np.uint8,
)
"""Colours of classes, told apart by the colour-blind (Okabe and Ito); the background is dark."""


def tiles_of(pixels: Pixels) -> tuple[str, ...]:
    """What the picture of a row shows, from left to right.

    Example:
        >>> tiles_of(Pixels(np.zeros((1, 2, 2)), np.zeros((2, 2, 2)), None))
        ('image', 'chosen', 'rejected', 'difference', 'before', 'after', 'shift of logits')
    """
    masks = {1: ("mask",), 2: ("chosen", "rejected", "difference")}.get(len(pixels.masks), ("best", "second"))
    return ("image", *masks, "before", "after", "shift of logits")


def picture_of(pixels: Pixels, before: Segmenter, after: Segmenter) -> bytes:
    """One PNG with the tiles of a row (`tiles_of`) side by side.

    The last tile is the change of the log-odds of the foreground, blue where it rose and orange where it fell, white at none; for a
    mask with a certain reward of pixels it is what the annotator pays for.
    """
    image = as_floats(pixels.image)
    first, second = (predicted(segmenter, [pixels.image])[0] for segmenter in (before, after))
    tiles = [_grey(image), *(_coloured(mask) for mask in pixels.masks[:2])]
    if len(pixels.masks) == 2:
        tiles.append(np.where(pixels.differing[..., None], np.array([230, 60, 60], np.uint8), _grey(image) // 2))
    tiles += [
        _coloured(first.argmax(0).numpy()),
        _coloured(second.argmax(0).numpy()),
        _shift(_odds(second) - _odds(first)),
    ]
    factor = max(1, -(-_SIDE // tiles[0].shape[0]))
    large = [np.kron(_opaque(tile), np.ones((factor, factor, 1), np.uint8)) for tile in tiles]
    gap = np.zeros((large[0].shape[0], 6, 4), np.uint8)  # clear, whatever the page's colour
    strip = np.concatenate([part for tile in large for part in (tile, gap)][:-1], 1)
    content = BytesIO()
    Image.fromarray(strip).save(content, "PNG", optimize=True)
    return content.getvalue()


def _odds(log_probabilities: torch.Tensor) -> Any:
    """(H, W) log-odds of the foreground, all classes but the background together."""
    foreground = torch.logsumexp(log_probabilities[1:], 0)
    return (foreground - log_probabilities[0]).clamp(-20, 20).numpy()


def _opaque(tile: Any) -> Any:
    return np.concatenate([tile, np.full((*tile.shape[:2], 1), 255, np.uint8)], 2)


def _grey(image: Any) -> Any:
    colours = np.repeat(image, 3, 0) if image.shape[0] == 1 else image[:3]
    return (np.moveaxis(np.clip(colours, 0, 1), 0, -1) * 255).astype(np.uint8)


def _coloured(mask: Any) -> Any:
    return np.where(
        mask[..., None] < 0, np.array([128, 128, 128], np.uint8), _CLASSES[np.maximum(mask, 0) % len(_CLASSES)]
    )


def _shift(change: Any) -> Any:
    size = np.clip(np.abs(change) / max(1e-6, float(np.abs(change).max())), 0, 1)[..., None]
    end = np.where(change[..., None] > 0, np.array([0, 90, 181], np.float32), np.array([220, 110, 0], np.float32))
    return (255 + (end - 255) * size).astype(np.uint8)
