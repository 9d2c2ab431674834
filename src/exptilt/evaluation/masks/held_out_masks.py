"""Held-out rows while a segmenter trains: the loss, and what is measured of the segmenter beside its start."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from exptilt.data.groups import Group
from exptilt.data.masks.mask_set import MaskSet, group_of
from exptilt.evaluation.masks.mask_evaluation import log_probabilities_of, measured_row
from exptilt.losses import Loss
from exptilt.policies.segmenters.mask_scorer import MaskScorer, MaskTable, masks_of
from exptilt.policies.segmenters.segmenter import Segmenter
from exptilt.training.objective import Objective
from exptilt.training.sums import Sums
from exptilt.types import LogProbs

_NOT_LOGGED = ("accuracy",)
"""`rewards/accuracies` is the same number."""


@dataclass(frozen=True)
class HeldOutMasks:
    """Everything that is measured on held-out rows at once; one forward pass of the policy serves the loss and the measures."""

    rows: MaskSet
    policy: MaskScorer
    start: Segmenter
    """A copy of the segmenter as it was before step 1."""
    objective: Objective
    table: MaskTable | None
    at_once: int
    """Images of one forward pass."""
    prepare: Callable[[Group[Any]], Group[Any]] = lambda group: group
    """What a row is made of before it is scored."""

    def sums(self) -> Sums:
        """Sums over all rows: of the loss, and of `dice`, `kl`, `agreement` and other measures of each row."""
        parts: list[LogProbs] = []
        groups: list[Group] = []
        measured = Sums()
        classes = len(self.rows.palette.names)
        with torch.no_grad():
            for begin in range(0, len(self.rows), self.at_once):
                places = range(begin, min(begin + self.at_once, len(self.rows)))
                some = [self.rows.pixels(at) for at in places]
                own = log_probabilities_of(self.policy.model, some)
                before = log_probabilities_of(self.start, some)
                for at, pixels, policy, reference in zip(places, some, own, before, strict=True):
                    group = self.prepare(group_of(self.rows.rows[at], pixels))
                    groups.append(group)
                    kl = (
                        (policy.exp() * (policy - reference)).sum(0).flatten()
                        if self.objective.loss.mixes_rows
                        else None
                    )
                    parts.append(masks_of(group, policy.flatten(1), self.policy.pixels, kl))
                    for name, value in measured_row(pixels, policy, reference, classes).items():
                        if name not in _NOT_LOGGED and math.isfinite(value):
                            measured.add(name, value * group.weight, group.weight)
            if not has_loss(self.rows, self.objective.loss):
                return measured
            anchor = self.table(groups) if self.table else None
            sums = self.objective(groups, LogProbs.cat(parts).to(self.policy.model.device), anchor).sums
        sums.merge(measured)
        return sums


def has_loss(rows: MaskSet, loss: Loss) -> bool:
    """Whether held-out rows have what the loss reads; images with nothing but true masks have no preferences."""
    return loss.kind.imitates or all(row.label is not None for row in rows.rows)


def names_of_rows(rows: MaskSet) -> set[str]:
    """What is measured of held-out rows beside the loss."""
    pixels = rows.pixels(0)
    even = torch.zeros(len(rows.palette.names), *pixels.image.shape[1:]).log_softmax(0)
    return measured_row(pixels, even, even, len(rows.palette.names)).keys() - set(_NOT_LOGGED)
