"""Groups as one flat row: prompt | completion | completion | ..., nothing padded, nothing computed twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exptilt.data.groups import Completion, Group
from exptilt.errors import DataError
from exptilt.policies.engine.attention import Segments
from exptilt.policies.engine.flex import MULTIPLE
from exptilt.policies.engine.spans import Span
from exptilt.types import on_device

FEW_LENGTHS = 64
"""Long rows on a CPU are filled up to a multiple of this, because its kernels are made anew for every length."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Packed:
    """T input tokens of G groups in one row, with the states that predict the N counted tokens of their C completions.

    A completion is fed without its last token, which predicts nothing. The first token of every completion is predicted
    by the prompt's last position, so several completions share one hidden state. A completion that repeats the prompt is
    not fed at all: the prompt's own positions predict it.
    """

    input_ids: Tensor
    """(1, T) int64."""
    position_ids: Tensor
    """(1, T) int64; restarts at the prompt's length for each completion."""
    segments: Segments
    """The rule of which token attends to which."""
    source: Tensor
    """(N,) int64, place in the row of the hidden state that predicts each counted token."""
    targets: Tensor
    """(N,) int64, the counted tokens."""
    lengths: Tensor
    """(C,) int64, counted tokens of each completion."""


def pack(groups: Sequence[Group], device: torch.device | str | None = None, multiple: int | None = None) -> Packed:
    """Lay groups out as one packed row.

    Args:
        groups: at least one; the caller decides how many fit in memory.
        device: device of the tensors.
        multiple: fill the row up to a multiple of so many tokens, with a sequence that nobody sees. Default: what the
            attention kernel of a GPU wants; elsewhere a little for long rows.

    Raises:
        DataError: there is nothing to feed (the message names the row), a completion is empty, or a first token counts and
            nothing precedes it.

    Example:
        >>> group = Group(id="a.jsonl:1", prompt=np.array([5, 6], np.int32), completions=(
        ...     Completion(np.array([7, 8], np.int32), np.array([True, True])),
        ...     Completion(np.array([9], np.int32), np.array([True]))))
        >>> packed = pack([group])
        >>> packed.input_ids.tolist(), packed.source.tolist(), packed.targets.tolist(), packed.lengths.tolist()
        ([[5, 6, 7]], [1, 2, 1], [7, 8, 9], [2, 1])
    """
    if not groups:
        raise DataError("cannot pack an empty list of groups")
    where = torch.device(device) if device is not None else None
    spans: list[Span] = []
    tokens: list[NDArray[np.int32]] = []
    predicted: list[tuple[int, int]] = []
    begins: list[int] = []
    total = 0
    for group in groups:
        prompt_length = len(group.prompt)
        prompt, total, first = total, total + prompt_length, True
        tokens.append(group.prompt)
        begins.append(0)
        for completion in group.completions:
            if completion.repeats_prompt:
                predicted.append((prompt, prompt + 1))
                continue
            length = len(completion.ids) - 1
            if length < 0 or not prompt_length:
                _check(group)
            tokens.append(completion.ids[:-1])
            begins.append(prompt_length)
            # A later completion of one token adds nothing to the row: its only token is predicted by the prompt.
            if length or (first and prompt_length):
                spans.append(Span(prompt, prompt_length, total, length, first))
            predicted.append((prompt + prompt_length - 1, total))
            total, first = total + length, False
        if first and prompt_length:
            spans.append(Span(prompt, prompt_length, total, 0, True))
    if total == 0:
        raise DataError(f"row {groups[0].id}: no token can be predicted, because nothing precedes it")
    filling = -total % (multiple or _multiple(total, where))
    if filling:
        spans.append(Span(total, 0, total, filling, True))
    source, targets, lengths = _counted([completion for group in groups for completion in group.completions], predicted)
    return Packed(
        input_ids=_tensor(np.concatenate([*tokens, np.zeros(filling, np.int32)]), where).unsqueeze(0),
        position_ids=_tensor(_positions(begins, tokens, filling), where).unsqueeze(0),
        segments=Segments(spans, total + filling, where),
        source=_tensor(source, where),
        targets=_tensor(targets, where),
        lengths=_tensor(lengths, where),
    )


def _multiple(total: int, device: torch.device | None) -> int:
    if device is not None and device.type == "cuda":
        return MULTIPLE
    return FEW_LENGTHS if total >= 16 * FEW_LENGTHS else 1


def _check(group: Group) -> None:
    for number, completion in enumerate(group.following, start=1):
        if len(completion.ids) == 0:
            raise DataError(f"row {group.id}: completion {number} is empty; drop the row or end it with the end token")
        if len(group.prompt) == 0 and bool(completion.counted[0]):
            raise DataError(
                f"row {group.id}: the prompt is empty, so nothing predicts the first token of completion {number}; "
                "begin the prompt with the tokenizer's BOS token, or do not count that token"
            )


def _counted(
    completions: Sequence[Completion], predicted: Sequence[tuple[int, int]]
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
    """The state before each counted token, the token itself, and the number of counted tokens per completion.

    `predicted` are the places of the states before the first and before the second token of each completion.
    """
    sizes = [len(completion.ids) for completion in completions]
    counted = np.flatnonzero(np.concatenate([completion.counted for completion in completions]))
    owner = np.repeat(np.arange(len(sizes)), sizes)[counted]
    position = counted - (np.cumsum(sizes) - sizes)[owner]
    before_first, before_second = np.array(predicted).T[:, owner]
    source = np.where(position == 0, before_first, before_second + position - 1)
    targets = np.concatenate([completion.ids for completion in completions])[counted]
    return source, targets, np.bincount(owner, minlength=len(sizes))


def _positions(begins: Sequence[int], parts: Sequence[NDArray[np.int32]], filling: int) -> NDArray[np.int64]:
    """Positions of all tokens; each part of the row counts up from its begin in its own sequence."""
    lengths = np.array([*map(len, parts), filling])
    ends = np.cumsum(lengths)
    shift: NDArray[np.int64] = np.array([*begins, 0]) - (ends - lengths)
    return np.arange(ends[-1]) + np.repeat(shift, lengths)


def _tensor(array: NDArray[np.integer], device: torch.device | None) -> Tensor:
    return on_device(torch.from_numpy(array.astype(np.int64)), device)
