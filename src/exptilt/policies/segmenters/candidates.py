"""Candidate masks near a segmenter's own: what people compare, and what a simulated annotator labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d

from exptilt.policies.segmenters.mask_scorer import as_floats
from exptilt.policies.segmenters.segmenter import Segmenter


@dataclass(frozen=True)
class CandidateLaw:
    """How candidates differ from the segmenter's own mask.

    To the logits are added a bias per class and smooth noise per pixel, and every other candidate is eroded or dilated by a
    pixel. Candidates of dropout take their logits from a pass with dropout on.
    """

    bias: float = 1.0
    """Standard deviation of the bias of each class but the background, in logits."""
    noise: float = 0.6
    """Standard deviation of the noise, in logits."""
    smoothness: int = 4
    """Pixels over which the noise is smooth."""
    morphology: bool = True
    """Erode or dilate every second candidate that is no dropout pass."""
    dropout: bool = False
    """Switch dropout on for candidates, for segmenters that have it."""


def candidates(segmenter: Segmenter, image: Any, count: int, law: CandidateLaw, seed: tuple[int, ...]) -> Any:
    """Masks of an image: the segmenter's own first, then others near it, all different.

    Args:
        segmenter: its own mask is the likeliest class of every pixel.
        image: (C, H, W).
        count: number of masks, at least 2; fewer come back where draws repeat each other.
        law: how they differ.
        seed: of the draws; those of one image do not depend on how many others there are.

    Returns:
        (n, H, W) int32 class ids.
    """
    random = np.random.default_rng(seed)
    pixels = torch.from_numpy(as_floats(image))[None].to(segmenter.device)
    with torch.no_grad():
        own = segmenter.log_probabilities(pixels)[0].cpu()
        masks = [own.argmax(0)]
        for number in range(1, 4 * count):
            if len(masks) == count:
                break
            logits = _with_dropout(segmenter, pixels, int(random.integers(2**31))) if law.dropout else own
            mask = (logits + _disturbance(own.shape, law, random)).argmax(0)
            if law.morphology and number % 2 == 0:
                mask = _moved(mask, grows=bool(random.integers(2)))
            if not any(torch.equal(mask, other) for other in masks):
                masks.append(mask)
    return torch.stack(masks).to(torch.int32).numpy()


def _disturbance(shape: torch.Size, law: CandidateLaw, random: np.random.Generator) -> Tensor:
    classes, height, width = shape
    bias = torch.from_numpy(random.normal(0, law.bias, (classes, 1, 1))).float()
    bias[0] = 0
    coarse = (max(1, height // law.smoothness), max(1, width // law.smoothness))
    noise = torch.from_numpy(random.normal(0, law.noise, (1, classes, *coarse))).float()
    return bias + interpolate(noise, size=(height, width), mode="bilinear", align_corners=False)[0]


def _moved(mask: Tensor, *, grows: bool) -> Tensor:
    """Grow the foreground by a pixel into the background, or the background into the foreground."""
    classes = mask[None, None].float()
    if grows:
        grown = max_pool2d(classes, 3, 1, 1)[0, 0].long()
        return torch.where(mask == 0, grown, mask)
    touches = max_pool2d((classes == 0).float(), 3, 1, 1)[0, 0] > 0
    return torch.where(touches, torch.zeros_like(mask), mask)


def _with_dropout(segmenter: Segmenter, pixels: Tensor, seed: int) -> Tensor:
    layers = [module for module in segmenter.modules() if isinstance(module, nn.modules.dropout._DropoutNd)]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for layer in layers:
            layer.training = True
        try:
            return segmenter.log_probabilities(pixels)[0].cpu()
        finally:
            for layer in layers:
                layer.training = False
