"""The check of promise 1: if policy and reference are the same weights, every log-ratio is zero before the first step."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from exptilt.data.groups import Group
from exptilt.errors import TrainingError
from exptilt.policies.scorer import Scorer

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 0.25, torch.float16: 0.05}
"""Largest log-ratio of one token, nats, that rounding explains in each dtype of the weights."""


@torch.no_grad()
def check_step_zero(policy: Scorer, reference: Scorer, groups: Sequence[Group], dtype: torch.dtype) -> float:
    """Compare policy and reference token by token before anything is trained.

    Args:
        policy: scores groups with the weights training starts from.
        reference: scores groups with the reference.
        groups: a few rows.
        dtype: dtype of the weights; it sets the tolerance for rounding.

    Returns:
        The largest log-ratio of any token, nats.

    Raises:
        TrainingError: the difference is more than rounding: the reference is not the model the run starts from.
    """
    difference = (policy(groups).tokens() - reference(groups).tokens()).abs()
    worst = float(difference.max()) if len(difference) else 0.0
    if not worst <= TOLERANCE[dtype]:
        raise TrainingError(
            f"before step 1 policy and reference differ by {worst:.4g} nats on a token (rounding explains "
            f"{TOLERANCE[dtype]:g}), though the reference is meant to be the starting weights. A stale "
            "reference cache may be in use: set reference.cache=false, or remove it. If another reference is meant, name it "
            "with reference.model"
        )
    return worst
