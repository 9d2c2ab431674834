"""The distance of another reference from the weights a run starts from, reported before step 1."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from exptilt.data.groups import Group
from exptilt.errors import TrainingError
from exptilt.policies.scorer import Scorer

_FAR = 0.5
"""Nats a token from which on text that one model knows is foreign to the other."""


@torch.no_grad()
def start_distance(
    policy: Scorer, reference: Scorer, groups: Sequence[Group], *, name: str, loss: float | None, at_zero: float | None
) -> str:
    """One line about the start of a run whose reference is another model.

    Args:
        policy: scores groups with the weights training starts from.
        reference: scores groups with the reference.
        groups: a few rows.
        name: name of the reference in the recipe.
        loss: the objective's on these rows.
        at_zero: the loss if both were the same weights; None if unknown.

    Raises:
        TrainingError: a log-ratio is not finite.
    """
    mine, theirs = policy(groups), reference(groups)
    ratio = mine.tokens().double() - theirs.tokens().double()
    if not bool(torch.isfinite(ratio).all()):
        raise TrainingError(
            f"before step 1 log-ratios against reference.model={name} are not finite; it gives a token no probability at all"
        )
    per_token = float(ratio.abs().mean()) if len(ratio) else 0.0
    gap = "" if loss is None else f"; the loss starts at {loss:.4g}"
    if loss is not None and at_zero is not None and not math.isclose(loss, at_zero, rel_tol=0.02):
        gap += f", not at {at_zero:.4g} as against its own start"
    far = (
        ". That is far: the reference was trained for other text, or with another template" if per_token > _FAR else ""
    )
    return (
        f"reference.model={name} is another model: before step 1 it and the policy differ by {per_token:.3g} nats a token"
        f"{gap}{far}"
    )
