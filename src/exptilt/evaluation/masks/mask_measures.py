"""Measures of one image: overlap with the true mask, boundaries, calibration, divergence and likelihoods."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

BINS = 10
"""Of equal width, for calibration."""


def overlaps(predicted: Tensor, true: Tensor, classes: int) -> Tensor:
    """(classes, 3) pixels of each class in both, in the prediction, in the truth; pixels of -1 in `true` do not count.

    Example:
        >>> overlaps(torch.tensor([[0, 1], [1, 1]]), torch.tensor([[0, 1], [-1, 0]]), 2).tolist()
        [[1.0, 1.0, 2.0], [1.0, 2.0, 1.0]]
    """
    valid = true >= 0
    cells = torch.bincount(true[valid] * classes + predicted[valid], minlength=classes**2).view(classes, classes)
    return torch.stack([cells.diagonal(), cells.sum(0), cells.sum(1)], 1).double()


def dice_of(counts: Tensor) -> Tensor:
    """Dice of (..., 3) counts, 2 |A and B| / (|A| + |B|); NaN where the class is in neither.

    Example:
        >>> dice_of(torch.tensor([[2.0, 3.0, 3.0], [0.0, 0.0, 0.0]])).tolist()
        [0.6666666865348816, nan]
    """
    return 2 * counts[..., 0] / (counts[..., 1] + counts[..., 2])


def iou_of(counts: Tensor) -> Tensor:
    """Intersection over union of (..., 3) counts; NaN where the class is in neither."""
    return counts[..., 0] / (counts[..., 1] + counts[..., 2] - counts[..., 0])


def boundary_f(predicted: Tensor, true: Tensor, tolerance: int = 2) -> float:
    """F1 of the boundaries of two binary masks: a boundary pixel is right if the other's is within so many pixels.

    Both empty give NaN, one empty gives 0.

    Args:
        predicted: (H, W) bool.
        true: (H, W) bool.
        tolerance: in pixels, of rows and columns alike (Chebyshev).

    Source: Csurka et al., BMVC 2013, the BF measure, with a square neighbourhood in the place of a disc.

    Example:
        >>> square = torch.zeros(9, 9, dtype=torch.bool)
        >>> square[2:7, 2:7] = True
        >>> boundary_f(square, square.roll(1, 0)), boundary_f(square, torch.zeros_like(square))
        (1.0, 0.0)
    """
    edges = [_edge(mask) for mask in (predicted, true)]
    if not any(bool(edge.any()) for edge in edges):
        return float("nan")
    if not all(bool(edge.any()) for edge in edges):
        return 0.0
    near = [max_pool2d(edge[None, None].float(), 2 * tolerance + 1, 1, tolerance)[0, 0] > 0 for edge in edges]
    precision = float((edges[0] & near[1]).sum() / edges[0].sum())
    recall = float((edges[1] & near[0]).sum() / edges[1].sum())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _edge(mask: Tensor) -> Tensor:
    """Pixels of a mask that have a neighbour outside it."""
    padded = torch.nn.functional.pad(~mask[None, None], (1, 1, 1, 1), value=False)
    return mask & (max_pool2d(padded.float(), 3, 1)[0, 0] > 0)


def calibration_counts(probabilities: Tensor, true: Tensor) -> Tensor:
    """(BINS, 3) pixels, sum of confidence, right ones, by the confidence of the likeliest class.

    Args:
        probabilities: (classes, H, W).
        true: (H, W), -1 does not count.
    """
    valid = true >= 0
    confidence, predicted = probabilities[:, valid].max(0)
    place = (confidence * BINS).long().clamp(max=BINS - 1)
    rows = [torch.ones_like(confidence), confidence, (predicted == true[valid]).to(confidence)]
    return torch.stack([torch.zeros(BINS).index_add(0, place, row.float()) for row in rows], 1).double()


def expected_calibration_error(counts: Tensor) -> float:
    """sum_b n_b / n |right_b / n_b - confidence_b / n_b| of summed (BINS, 3) counts.

    Example:
        >>> expected_calibration_error(torch.tensor([[10.0, 8.0, 6.0], [0.0, 0.0, 0.0]]))
        0.2
    """
    return round(float((counts[:, 1] - counts[:, 2]).abs().sum() / counts[:, 0].sum()), 6)


def divergence(policy: Tensor, reference: Tensor, valid: Tensor) -> float:
    """Mean over valid pixels of KL(policy || reference), exact, nats; both (classes, H, W) log-probabilities."""
    of_pixels = (policy.exp() * (policy - reference)).sum(0)
    return float(of_pixels[valid].double().mean())


def likelihoods(log_probabilities: Tensor, chosen: Tensor, rejected: Tensor) -> dict[str, float]:
    """Three numbers, nats a pixel: of the chosen mask where the two differ, of the pixels they agree on, of the rejected mask.

    The chosen must rise and the agreement must not collapse; that the chosen mask's likelihood falls over all pixels is no fault
    where winners are wrong themselves.

    Args:
        log_probabilities: (classes, H, W).
        chosen: (H, W) class ids, -1 where ignored.
        rejected: (H, W).
    """
    valid = (chosen >= 0) & (rejected >= 0)
    parts = {
        "chosen_on_difference": (chosen, valid & (chosen != rejected)),
        "agreement": (chosen, valid & (chosen == rejected)),
        "rejected_on_difference": (rejected, valid & (chosen != rejected)),
    }
    return {name: float(_of(log_probabilities, ids, where).mean()) for name, (ids, where) in parts.items()}


def nll(log_probabilities: Tensor, true: Tensor) -> float:
    """Mean negative log-likelihood of the true classes, nats a pixel."""
    return -float(_of(log_probabilities, true, true >= 0).mean())


def _of(log_probabilities: Tensor, ids: Tensor, where: Tensor) -> Any:
    return log_probabilities[:, where].gather(0, ids[where][None])[0].double()
