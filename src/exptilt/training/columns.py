"""What a loss reads of rows beside log-probabilities: their labels and the scores of their completions, as tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exptilt.data.groups import Completion, Group, key_of, scores_of
from exptilt.errors import DataError
from exptilt.labels import Desirable, Preferred, Ranked
from exptilt.losses.base import Loss
from exptilt.losses.calls import columns_needed
from exptilt.losses.plackett_luce import LARGEST_TIE
from exptilt.types import on_device, widest

_POSITIONS = ("sizes", "best")
"""Whole numbers that say where completions stand; they stay in main memory."""


def columns_of(groups: Sequence[Group], loss: Loss, device: torch.device) -> dict[str, Tensor]:
    """The columns that `loss` is called with, and those that its metrics need.

    Args:
        groups: G rows, labelled as the loss's kind asks.
        loss: names the columns.
        device: where they go; `sizes` and `best` stay in main memory.

    Returns:
        By name (G,) values, or (C,) of what belongs to completions (`ranks`, `scores`), or (N,) of counted tokens. `best` is the
        position of the best completion of each list. `p_chosen` is there only where the preference of a row is not certain, `weights` only
        where the loss couples the batch, and `keys`, numbers that belong to the content of rows, where it draws by them.

    Raises:
        DataError: a row lacks what the loss needs.
    """
    _require_small_ties(groups, loss)
    wanted = (*columns_needed(loss), *(["best"] if loss.kind.label is Ranked else []))
    columns = {name: _column(name, groups, loss, device) for name in wanted}
    beliefs = [group.label.p_chosen if isinstance(group.label, Preferred) else 1.0 for group in groups]
    if loss.kind.is_paired and any(belief != 1 for belief in beliefs):
        columns["p_chosen"] = on_device(beliefs, device, widest(device))
    if loss.couples_batch:
        columns["weights"] = on_device([group.weight for group in groups], device, widest(device))
    if loss.takes_keys:
        columns["keys"] = on_device([key_of(group) for group in groups], device, torch.int64)
    return columns


def _require_small_ties(groups: Sequence[Group], loss: Loss) -> None:
    """Refuse a rank that more completions share than the loss can average over."""
    if getattr(loss, "ties", None) != "average":
        return
    for group in groups:
        ranks = group.label.ranks if isinstance(group.label, Ranked) else ()
        rank, count = max(Counter(ranks).items(), key=lambda each: each[1], default=(0, 0))
        if count > LARGEST_TIE:
            raise DataError(
                f"{group.id}: {count} completions share rank {rank}, and loss {loss.name!r} averages over the orders of at most "
                f"{LARGEST_TIE}; set loss.ties=breslow"
            )


def _column(name: str, groups: Sequence[Group], loss: Loss, device: torch.device) -> Tensor:
    instead = loss.if_missing.get(name)
    values = [instead if value is None else value for value in map(_VALUES[name], groups)]
    missing = [group.id for group, value in zip(groups, values, strict=True) if value is None]
    if missing:
        raise DataError(
            f"{missing[0]}: loss {loss.name!r} needs {name.replace('_', ' ')} in every row{_SAID_BY.get(name, '')}; "
            f"{len(missing)} of these rows have none"
        )
    flat = [one for value in values for one in (value if isinstance(value, tuple) else (value,))]
    if name in _POSITIONS:
        return torch.tensor(flat)
    if name in _OF_TOKENS:
        return on_device(torch.from_numpy(np.concatenate(flat)), device, torch.float32)
    return on_device(flat, device, torch.bool if name == "desirable" else torch.float32)


_SAID_BY = dict.fromkeys(
    ("chosen_score", "rejected_score"), " (columns chosen_score and rejected_score, or a ranking's scores)"
)


def _best(group: Group) -> int | None:
    """By its rank; where completions have scores and no ranks, the one with the highest score."""
    if isinstance(group.label, Ranked):
        return group.label.best
    scores = scores_of(group)
    return None if scores is None else scores.index(max(scores))


def _chosen_is_policy(group: Group) -> bool | None:
    """Which of two completions the policy in training was sampled for; unknown unless it is exactly one of them."""
    of_policy = [completion.version is not None for completion in group.completions]
    return of_policy[0] if sum(of_policy) == 1 else None


def _of_tokens(
    array_of: Callable[[Completion], NDArray[np.float32] | None],
) -> Callable[[Group], tuple[Any, ...] | None]:
    """Of every completion the numbers of its counted tokens; None unless each has them."""

    def values(group: Group) -> tuple[Any, ...] | None:
        arrays = [array_of(one) for one in group.completions]
        counted = [one.counted for one in group.completions]
        known = [array[mask] for array, mask in zip(arrays, counted, strict=True) if array is not None]
        return tuple(known) if len(known) == len(arrays) else None

    return values


_OF_TOKENS: dict[str, Callable[[Group], tuple[Any, ...] | None]] = {
    "behaviour": _of_tokens(lambda one: one.behaviour),
    "advantages": _of_tokens(lambda one: None if one.credit is None else one.credit.advantages),
    "returns": _of_tokens(lambda one: None if one.credit is None else one.credit.returns),
    "values": _of_tokens(lambda one: None if one.credit is None else one.credit.values),
}
"""By name the numbers of all counted tokens, an array for each completion."""

_VALUES: dict[str, Callable[[Group], Any]] = {
    "desirable": lambda group: group.label.desirable if isinstance(group.label, Desirable) else None,
    "margin": lambda group: group.label.margin if isinstance(group.label, Preferred) else None,
    "ranks": lambda group: group.label.ranks if isinstance(group.label, Ranked) else None,
    "scores": scores_of,
    "chosen_score": lambda group: group.completions[0].score,
    "rejected_score": lambda group: group.completions[1].score,
    "chosen_is_policy": _chosen_is_policy,
    "sizes": lambda group: len(group.completions),
    "best": _best,
    **_OF_TOKENS,
}
"""By name the value of a row, a tuple with one for each completion, or None where the row does not say."""
