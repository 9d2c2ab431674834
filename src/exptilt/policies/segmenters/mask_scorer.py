"""Log-probabilities of masks: pixels are the units, one forward pass serves all masks of an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from exptilt.data.groups import Group, key_of
from exptilt.policies.scorer import LossOf
from exptilt.policies.segmenters.segmenter import Segmenter
from exptilt.types import LogProbs

Units = Literal["all", "differing"]
Reduce = Literal["sum", "mean"]


@dataclass(frozen=True)
class CountedPixels:
    """Which pixels of a mask count, and what becomes of their log-probabilities.

    With V the pixels that no mask of a row ignores, and D those of V in which its masks differ,

        units all,       sum:   s(y) = sum_V log p_i(y_i)     pixel by pixel, as the tokens of a text
        units all,       mean:  s(y) = 1/|V| sum_V log p_i(y_i)
        units differing, sum:   s(y) = sum_D log p_i(y_i);         terms on likelihoods read sum_V
        units differing, mean:  s(y) = 1/|D| sum_D log p_i(y_i);   terms on likelihoods read 1/|V| sum_V

    Where masks agree, their log-probabilities cancel in every difference of the two, so `differing` changes no margin of a sum; it
    keeps float32's digits. A single mask differs from nothing: D is V.
    """

    units: Units = "differing"
    reduce: Reduce = "mean"


@dataclass(eq=False)
class MaskScorer:
    """A segmenter as a scorer of groups of masks; `Group.prompt` is the image, completions are masks, flat."""

    collective: ClassVar[bool] = False
    balance: ClassVar[None] = None
    model: Segmenter
    pixels: CountedPixels = CountedPixels()

    def __call__(self, groups: Sequence[Group[Any]]) -> LogProbs:
        """Log-probabilities of all masks of these groups, in order, with a graph."""
        if not groups:
            empty = torch.zeros(0, device=self.model.device)
            return LogProbs(values=empty, lengths=torch.zeros(0, dtype=torch.int64, device=self.model.device))
        scored: dict[int, LogProbs] = {}
        for shape in dict.fromkeys(group.prompt.shape for group in groups):
            places = [place for place, group in enumerate(groups) if group.prompt.shape == shape]
            images = torch.from_numpy(np.stack([as_floats(groups[place].prompt) for place in places]))
            log_probabilities = self.model.log_probabilities(images.to(self.model.device))
            for place, of_pixels in zip(places, log_probabilities, strict=True):
                scored[place] = masks_of(groups[place], of_pixels.flatten(1), self.pixels)
        return LogProbs.cat([scored[place] for place in range(len(groups))])

    def backward(self, groups: Sequence[Group[Any]], loss_of: LossOf) -> None:
        """Add the gradient of a loss that is a sum over groups."""
        if groups:
            loss_of(groups, self(groups)).backward()  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class MaskTable:
    """Log-probabilities of masks under the reference, scored once before any weight moves."""

    collective: ClassVar[bool] = False
    model: ClassVar[None] = None
    identity: str
    source: str
    device: torch.device
    rows: dict[int, LogProbs]
    """By what the row holds (`_place`), on the CPU."""

    @classmethod
    def of(cls, scorer: MaskScorer, groups: Sequence[Group[Any]], *, source: str, at_once: int = 8) -> MaskTable:
        """Score groups, so many at once."""
        rows: dict[int, LogProbs] = {}
        with torch.no_grad():
            for begin in range(0, len(groups), at_once):
                some = [groups[at] for at in range(begin, min(begin + at_once, len(groups)))]
                parts = scorer(some).to("cpu").split([len(group.completions) for group in some])
                rows |= {_place(group): part for group, part in zip(some, parts, strict=True)}
        return cls(scorer.model.fingerprint(), source, scorer.model.device, rows)

    def __call__(self, groups: Sequence[Group[Any]]) -> LogProbs:
        """Log-probabilities of all masks of these groups, in order."""
        return LogProbs.cat([self.rows[_place(group)] for group in groups]).to(self.device)


def as_floats(image: Any) -> Any:
    """(C, H, W) float32 of an image; whole numbers of 8 or 16 bits become shares of their largest.

    Example:
        >>> float(as_floats(np.full((1, 1, 1), 255, np.uint8)).item()), float(as_floats(np.ones((1, 1, 1), np.float32)).item())
        (1.0, 1.0)
    """
    scale = np.iinfo(image.dtype).max if image.dtype.kind == "u" else 1.0
    return (image / np.float32(scale)).astype(np.float32)


def differing(group: Group[Any]) -> Any:
    """(H*W,) bool, the valid pixels in which the masks of a row differ; of a single mask all valid ones."""
    valid = group.completions[0].counted
    first = group.completions[0].ids
    if len(group.completions) == 1:
        return valid
    return valid & np.logical_or.reduce([completion.ids != first for completion in group.completions[1:]])


def _place(group: Group[Any]) -> int:
    # `key_of` tells neither the order of completions nor which pixels count, and both decide what the table holds.
    masks = tuple(completion.ids.tobytes() for completion in group.completions)
    return hash((key_of(group), masks, group.completions[0].counted.tobytes()))


def masks_of(group: Group[Any], log_probabilities: Tensor, pixels: CountedPixels) -> LogProbs:
    """Log-probabilities of the masks of one image.

    Args:
        group: the image and its masks.
        log_probabilities: (classes, H*W) of its pixels, nats.
        pixels: which of them count.
    """
    device = log_probabilities.device
    ids = torch.from_numpy(np.stack([completion.ids for completion in group.completions])).to(device, torch.int64)
    valid = torch.from_numpy(np.ascontiguousarray(group.completions[0].counted)).to(device)
    of_units = log_probabilities[:, valid].gather(0, ids[:, valid])  # (K, |V|)
    if pixels == CountedPixels("all", "sum"):
        lengths = torch.full((len(ids),), of_units.shape[1], dtype=torch.int64, device=device)
        return LogProbs(values=of_units.flatten(), lengths=lengths)
    ones = torch.ones(len(ids), dtype=torch.int64, device=device)
    whole = _reduced(of_units, pixels.reduce)
    if pixels.units == "all":
        return LogProbs(values=whole, lengths=ones)
    chosen = torch.from_numpy(differing(group)).to(device)[valid]
    return LogProbs(values=_reduced(of_units[:, chosen], pixels.reduce), lengths=ones, whole=whole)


def _reduced(of_units: Tensor, how: Reduce) -> Tensor:
    return of_units.sum(1) if how == "sum" else of_units.mean(1)
