"""Pairs with the preferred side first: measuring asks which side people preferred, not which one a file calls chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from exptilt.data.groups import Group
from exptilt.labels import Preferred
from exptilt.types import LogProbs


class DecidedPairs(NamedTuple):
    """Pairs of which one side is likelier the better one, that side first, with their log-probabilities."""

    groups: list[Group]
    policy: LogProbs
    reference: LogProbs | None
    num_ties: int
    """Pairs with p_chosen 0.5, which have no right side and are left out."""


def decided_pairs(groups: Sequence[Group], policy: LogProbs, reference: LogProbs | None) -> DecidedPairs:
    """Exchange the sides of pairs with p_chosen below 0.5, and leave ties out.

    Args:
        groups: N pairs.
        policy: log-probabilities of both completions of every pair, in order.
        reference: the same under the reference, if there is one.
    """
    beliefs = [group.label.p_chosen if isinstance(group.label, Preferred) else 1.0 for group in groups]
    decided = [at for at, belief in enumerate(beliefs) if belief != 0.5]
    turned = [beliefs[at] < 0.5 for at in decided]
    if len(decided) == len(groups) and not any(turned):
        return DecidedPairs(list(groups), policy, reference, 0)
    places = [2 * at + side for at, turn in zip(decided, turned, strict=True) for side in ((1, 0) if turn else (0, 1))]
    return DecidedPairs(
        [_exchanged(groups[at]) if turn else groups[at] for at, turn in zip(decided, turned, strict=True)],
        policy.select(places),
        None if reference is None else reference.select(places),
        len(groups) - len(decided),
    )


def _exchanged(group: Group) -> Group:
    assert isinstance(group.label, Preferred)  # noqa: S101  (the caller looked; tells the type checker)
    label = replace(group.label, p_chosen=1 - group.label.p_chosen)
    return replace(group, completions=group.completions[::-1], label=label)
