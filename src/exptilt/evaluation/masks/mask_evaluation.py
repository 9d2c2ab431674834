"""A segmenter measured on held-out rows, with intervals by image, beside its reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from exptilt.data.masks.mask_set import MaskSet, Pixels
from exptilt.evaluation.intervals import Resampling, mean
from exptilt.evaluation.masks import mask_measures as measures
from exptilt.policies.segmenters.mask_scorer import as_floats
from exptilt.policies.segmenters.segmenter import Segmenter
from exptilt.run_folder.mask_evaluation_record import MaskMeasures

_THRESHOLDS = torch.linspace(0.05, 0.95, 19)


@dataclass(frozen=True)
class _OfImage:
    """Everything that is measured of one row."""

    values: Mapping[str, float]
    overlap: Tensor | None = None
    """(classes, 3)."""
    at_thresholds: Tensor | None = None
    """(thresholds, 3) of the foreground of two classes."""
    calibration: Tensor | None = None


def evaluate_masks(
    segmenter: Segmenter, reference: Segmenter, rows: MaskSet, *, name: str, level: float = 0.95, at_once: int = 8
) -> MaskMeasures:
    """Measure a segmenter.

    Args:
        segmenter: what is measured.
        reference: what divergence and margins are measured against.
        rows: held-out rows; those with a target give overlap and calibration, pairs give likelihoods and accuracy.
        name: of the segmenter, for tables.
        level: of intervals, which resample images.
        at_once: images of one forward pass.
    """
    each: list[_OfImage] = []
    images: list[str] = []
    with torch.no_grad():
        for begin in range(0, len(rows), at_once):
            some = [rows.pixels(at) for at in range(begin, min(begin + at_once, len(rows)))]
            both = zip(some, log_probabilities_of(segmenter, some), log_probabilities_of(reference, some), strict=True)
            for pixels, policy, of_reference in both:
                each.append(_of_image(pixels, policy, of_reference, len(rows.palette.names)))
                images.append(f"{hash(pixels.image.tobytes())}")
    return _summed(each, images, rows.palette.names, name, Resampling(level=level))


def predicted(segmenter: Segmenter, images: Sequence[Any]) -> list[Tensor]:
    """(classes, H, W) log-probabilities of each image, on the CPU."""
    with torch.no_grad():
        return [
            segmenter.log_probabilities(torch.from_numpy(as_floats(image))[None].to(segmenter.device))[0].cpu()
            for image in images
        ]


def log_probabilities_of(segmenter: Segmenter, some: Sequence[Pixels]) -> list[Tensor]:
    """(classes, H, W) log-probabilities of each row's image, on the CPU; images of one size go in one pass."""
    if len({pixels.image.shape for pixels in some}) > 1:
        return predicted(segmenter, [pixels.image for pixels in some])
    images = torch.from_numpy(np.stack([as_floats(pixels.image) for pixels in some]))
    return list(segmenter.log_probabilities(images.to(segmenter.device)).cpu())


def measured_row(pixels: Pixels, policy: Tensor, reference: Tensor, classes: int) -> dict[str, float]:
    """Measures of one row that are a number each; NaN where there is none.

    Args:
        pixels: the row.
        policy: (classes, H, W) log-probabilities.
        reference: the same of the segmenter that divergence and margins are measured against.
        classes: their number.
    """
    valid = torch.from_numpy(pixels.valid)
    likeliest = policy.argmax(0)
    values = {
        "kl": measures.divergence(policy, reference, valid),
        "foreground": float((likeliest[valid] > 0).double().mean()),
    }
    if len(pixels.masks) == 2:
        chosen, rejected = (torch.from_numpy(mask).long() for mask in pixels.masks)
        own = measures.likelihoods(policy, chosen, rejected)
        other = measures.likelihoods(reference, chosen, rejected)
        moved = {key: own[key] - other[key] for key in own}
        margin = moved["chosen_on_difference"] - moved["rejected_on_difference"]
        values |= own | {"accuracy": 0.5 if abs(margin) < 1e-7 else float(margin > 0)}
    if pixels.target is not None:
        true = torch.from_numpy(pixels.target).long()
        dice, before = (_dice(one, true, classes) for one in (likeliest, reference.argmax(0)))
        values |= {
            "nll": measures.nll(policy, true),
            "dice": dice,
            "gain": dice - before,
            "boundary": measures.boundary_f((likeliest > 0) & (true >= 0), true > 0),
        }
    return values


def _dice(predicted: Tensor, true: Tensor, classes: int) -> float:
    return float(measures.dice_of(measures.overlaps(predicted, true, classes))[1:].nanmean())


def _of_image(pixels: Pixels, policy: Tensor, reference: Tensor, classes: int) -> _OfImage:
    values = measured_row(pixels, policy, reference, classes)
    if pixels.target is None:
        return _OfImage(values)
    true = torch.from_numpy(pixels.target).long()
    curve = _at_thresholds(policy, true) if classes == 2 else None
    overlap = measures.overlaps(policy.argmax(0), true, classes)
    return _OfImage(values, overlap, curve, measures.calibration_counts(policy.exp(), true))


def _at_thresholds(policy: Tensor, true: Tensor) -> Tensor:
    foreground = policy[1].exp()
    return torch.stack([measures.overlaps((foreground > threshold).long(), true, 2)[1] for threshold in _THRESHOLDS])


def _summed(
    each: Sequence[_OfImage], images: Sequence[str], names: Sequence[str], name: str, resampling: Resampling
) -> MaskMeasures:
    found: dict[str, Any] = {"name": name}
    for key in dict.fromkeys(key for one in each for key in one.values):
        found[key] = _mean([one.values.get(key, float("nan")) for one in each], images, resampling)
    with_target = [(one, image) for one, image in zip(each, images, strict=True) if one.overlap is not None]
    if not with_target:
        return MaskMeasures(**{key: value for key, value in found.items() if value is not None})
    of_images = [image for _, image in with_target]
    overlaps = torch.stack([one.overlap for one, _ in with_target if one.overlap is not None])
    for key, of in (("dice_of_class", measures.dice_of), ("iou_of_class", measures.iou_of)):
        columns = of(overlaps)
        estimates = {label: _mean(columns[:, at].tolist(), of_images, resampling) for at, label in enumerate(names)}
        found[key] = {label: estimate for label, estimate in estimates.items() if estimate is not None}
    curves = [one.at_thresholds for one, _ in with_target if one.at_thresholds is not None]
    if curves:
        dice = measures.dice_of(torch.stack(curves)).nan_to_num(1.0)  # no foreground in either: right
        best = int(dice.mean(0).argmax())
        found |= {
            "dice_at_best": _mean(dice[:, best].tolist(), of_images, resampling),
            "best_threshold": round(float(_THRESHOLDS[best]), 3),
        }
    counts = torch.stack([one.calibration for one, _ in with_target if one.calibration is not None]).sum(0)
    found["ece"] = measures.expected_calibration_error(counts)
    found["reliability"] = tuple(
        (float(confidence / pixels), float(right / pixels), float(pixels))
        for pixels, confidence, right in counts
        if pixels
    )
    return MaskMeasures(**{key: value for key, value in found.items() if value is not None})


def _mean(values: Sequence[float], images: Sequence[str], resampling: Resampling) -> Any:
    """Mean over images, without those that have no value."""
    known = [(value, image) for value, image in zip(values, images, strict=True) if np.isfinite(value)]
    if not known:
        return None
    return mean([value for value, _ in known], [image for _, image in known], resampling)
