"""Log-probabilities of masks: pixels are the units, one forward pass serves all masks of an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from exptilt.data.groups import Completion, Group, key_of
from exptilt.policies.scorer import LossOf
from exptilt.policies.segmenters.segmenter import Segmenter
from exptilt.types import LogProbs

Units = Literal["all", "differing"]
Reduce = Literal["sum", "mean"]
_ANY_CLASS = -1
"""Class of every pixel of the completion that stands for all masks."""


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
    reference: Segmenter | None = None
    """The frozen start; needed for rows `with_distribution` alone."""

    def __call__(self, groups: Sequence[Group[Any]]) -> LogProbs:
        """Log-probabilities of all masks of these groups, in order, with a graph."""
        if not groups:
            empty = torch.zeros(0, device=self.model.device)
            return LogProbs(values=empty, lengths=torch.zeros(0, dtype=torch.int64, device=self.model.device))
        scored: dict[int, LogProbs] = {}
        for shape in dict.fromkeys(group.prompt.shape for group in groups):
            places = [place for place, group in enumerate(groups) if group.prompt.shape == shape]
            images = torch.from_numpy(np.stack([as_floats(groups[place].prompt) for place in places]))
            images = images.to(self.model.device)
            log_probabilities = self.model.log_probabilities(images).flatten(2)
            divergences = self._divergences([groups[place] for place in places], images, log_probabilities)
            for place, of_pixels, divergence in zip(places, log_probabilities, divergences, strict=True):
                scored[place] = masks_of(groups[place], of_pixels, self.pixels, divergence)
        return LogProbs.cat([scored[place] for place in range(len(groups))])

    def _divergences(
        self, groups: Sequence[Group[Any]], images: Tensor, log_probabilities: Tensor
    ) -> Sequence[Tensor | None]:
        """(H*W,) KL of each pixel from the reference, without gradient, of rows `with_distribution`."""
        if not any(_has_distribution(group) for group in groups):
            return [None] * len(groups)
        if self.reference is None:
            raise ValueError("rows with the whole distribution need a scorer with a reference")
        with torch.no_grad():
            start = self.reference.log_probabilities(images).flatten(2)
            return list((log_probabilities.exp() * (log_probabilities - start)).sum(1))

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
    def of(
        cls,
        scorer: MaskScorer,
        groups: Sequence[Group[Any]],
        *,
        source: str,
        at_once: int = 8,
        prepare: Callable[[Group[Any]], Group[Any]] = lambda group: group,
    ) -> MaskTable:
        """Score groups, prepared one by one, so many at once."""
        rows: dict[int, LogProbs] = {}
        with torch.no_grad():
            for begin in range(0, len(groups), at_once):
                some = [prepare(groups[at]) for at in range(begin, min(begin + at_once, len(groups)))]
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
    first, *others = group.completions[:-1] if _has_distribution(group) else group.completions
    if not others:
        return valid
    return valid & np.logical_or.reduce([completion.ids != first.ids for completion in others])


def with_distribution(group: Group[Any]) -> Group[Any]:
    """The row with one more completion, which stands for the segmenter's whole distribution over masks.

    A scorer gives it, pixel by pixel, KL(segmenter || reference), and the table, which was scored at the start, 0. So its log-ratio is
    the exact KL, which KTO's reference point is meant to be: a text's is estimated by a completion under another prompt, and a mask
    belongs to one image.
    """
    first = group.completions[0]
    whole = Completion(np.full_like(first.ids, _ANY_CLASS), np.zeros_like(first.counted))
    return replace(group, completions=(*group.completions, whole))


def _has_distribution(group: Group[Any]) -> bool:
    return bool(group.completions[-1].ids[0] == _ANY_CLASS)


def _place(group: Group[Any]) -> int:
    # `key_of` tells neither the order of completions nor which pixels count, and both decide what the table holds.
    masks = tuple(completion.ids.tobytes() for completion in group.completions)
    return hash((key_of(group), masks, group.completions[0].counted.tobytes()))


def masks_of(
    group: Group[Any], log_probabilities: Tensor, pixels: CountedPixels, divergence: Tensor | None = None
) -> LogProbs:
    """Log-probabilities of the masks of one image.

    Args:
        group: the image and its masks.
        log_probabilities: (classes, H*W) of its pixels, nats.
        pixels: which of them count.
        divergence: (H*W,) KL of each pixel from the reference, for a row `with_distribution`.
    """
    device = log_probabilities.device
    masks = group.completions if divergence is None else group.completions[:-1]
    ids = torch.from_numpy(np.stack([completion.ids for completion in masks])).to(device, torch.int64)
    valid = torch.from_numpy(np.ascontiguousarray(group.completions[0].counted)).to(device)
    of_units = log_probabilities[:, valid].gather(0, ids[:, valid])  # (K, |V|)
    if divergence is not None:
        of_units = torch.cat([of_units, divergence[valid][None]])
    if pixels == CountedPixels("all", "sum"):
        lengths = torch.full((len(of_units),), of_units.shape[1], dtype=torch.int64, device=device)
        return LogProbs(values=of_units.flatten(), lengths=lengths)
    ones = torch.ones(len(of_units), dtype=torch.int64, device=device)
    whole = _reduced(of_units, pixels.reduce)
    if pixels.units == "all":
        return LogProbs(values=whole, lengths=ones)
    chosen = torch.from_numpy(differing(group)).to(device)[valid]
    return LogProbs(values=_reduced(of_units[:, chosen], pixels.reduce), lengths=ones, whole=whole)


def _reduced(of_units: Tensor, how: Reduce) -> Tensor:
    return of_units.sum(1) if how == "sum" else of_units.mean(1)
