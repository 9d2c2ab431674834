"""Procedural images of blobs with their true masks, for demonstrations and tests without any data."""

from __future__ import annotations

from typing import Any

import numpy as np


def blobs(count: int, size: int = 32, seed: int = 0) -> tuple[Any, Any]:
    """Draw grey images of two to four soft ellipses on a noisy ground.

    Args:
        count: number of images.
        size: of a side, pixels.
        seed: of the draws.

    Returns:
        (count, size, size) uint8 images and (count, size, size) int32 masks, 1 inside an ellipse.

    Example:
        >>> images, masks = blobs(2, size=16)
        >>> images.shape, masks.dtype, bool(images[masks == 1].mean() > images[masks == 0].mean())
        ((2, 16, 16), dtype('int32'), True)
    """
    random = np.random.default_rng((seed, 77))
    rows, columns = np.mgrid[:size, :size]
    images, masks = [], []
    for _ in range(count):
        field = np.full((size, size), -np.inf)
        for _ in range(random.integers(2, 5)):
            center = random.uniform(0.15, 0.85, 2) * size
            radii = random.uniform(0.08, 0.22, 2) * size
            distance = np.hypot((rows - center[0]) / radii[0], (columns - center[1]) / radii[1])
            field = np.maximum(field, 1 - distance)
        mask = field > 0
        light = 1 / (1 + np.exp(-6 * np.clip(field, -2, 1)))
        noisy = 70 + 90 * light + random.normal(0, 22, (size, size))
        images.append(np.clip(noisy, 0, 255).astype(np.uint8))
        masks.append(mask.astype(np.int32))
    return np.stack(images), np.stack(masks)


def thickened(masks: Any, pixels: int) -> Any:
    """Masks grown by so many pixels: coarse labels, wrong in one systematic way.

    Example:
        >>> thickened(np.eye(3, dtype=np.int32)[None], 1)[0].tolist()
        [[1, 1, 1], [1, 1, 1], [1, 1, 1]]
    """
    grown = masks > 0
    for _ in range(pixels):
        padded = np.pad(grown, ((0, 0), (1, 1), (1, 1)))
        height, width = grown.shape[1:]
        grown = np.logical_or.reduce(
            [padded[:, row : row + height, column : column + width] for row in range(3) for column in range(3)]
        )
    return grown.astype(np.int32)
