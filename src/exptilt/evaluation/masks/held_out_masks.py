"""Held-out rows while a segmenter trains: the loss, and what is measured of the segmenter beside its start."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from exptilt.data.groups import Group
from exptilt.data.masks.mask_set import MaskSet, group_of
from exptilt.evaluation.masks.mask_evaluation import log_probabilities_of, measured_row
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
                    group = self.policy.prepared(group_of(self.rows.rows[at], pixels))
                    groups.append(group)
                    parts.append(masks_of(group, policy.flatten(1), self.policy.pixels, reference.flatten(1)))
                    for name, value in measured_row(pixels, policy, reference, classes).items():
                        if name not in _NOT_LOGGED and math.isfinite(value):
                            measured.add(name, value * group.weight, group.weight)
            if any(row.label is None for row in self.rows.rows) and not self.objective.loss.kind.imitates:
                return measured  # images with true masks alone: no loss of preferences
            anchor = self.table(groups) if self.table else None
            sums = self.objective(groups, LogProbs.cat(parts).to(self.policy.model.device), anchor).sums
        sums.merge(measured)
        return sums
