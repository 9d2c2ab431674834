"""The names of the metrics that a run will write, known before its first step."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from exptilt.data.groups import Group
from exptilt.training.objective import Objective
from exptilt.training.throughput import TIMINGS
from exptilt.types import LogProbs

_OF_A_STEP = ("lr", "grad_norm", "router_balance")
_COUNTS = {"tokens", "unique_tokens"}
"""Sums without a mean."""


def measured_names(objective: Objective, groups: Sequence[Group]) -> dict[str, set[str]]:
    """The metrics of training and of held-out rows; the objective is asked, with log-probabilities of zero.

    Args:
        objective: of the run; its running statistics stay as they are.
        groups: some of its rows, as `Objective.prepare` made them.

    Returns:
        Under `train` and `eval` the names, without these words before them. Those of samples are not among them.
    """
    asked = Objective(objective.loss)
    lengths = torch.tensor([one.length for group in groups for one in group.completions], dtype=torch.int64)
    if objective.loss.kind.scores:
        lengths = torch.ones_like(lengths)
    zeros = torch.zeros(int(lengths.sum()), dtype=torch.float64)
    by_products = dict.fromkeys(objective.loss.byproducts, zeros)
    policy = LogProbs(values=zeros, lengths=lengths, **by_products)
    reference = LogProbs(values=zeros, lengths=lengths) if objective.loss.needs_reference else None
    of_rows = asked.form(groups, policy, reference).sums.totals.keys() - _COUNTS
    of_machine = {name.partition("/")[2] for name in TIMINGS}
    return {"train": {*of_rows, *_OF_A_STEP, *of_machine}, "eval": set(of_rows)}
