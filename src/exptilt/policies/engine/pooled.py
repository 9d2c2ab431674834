"""One score per completion from a reward model: packed rows with the prompt read once, or the model's own forward.

The score of a completion is the head's value at one position, which transformers chooses so: the last token of prompt and
completion that is not the padding token. Where the padding token is the end token, that is the token before the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from exptilt.data.groups import Completion, Group
from exptilt.errors import DataError, ModelError
from exptilt.policies.engine.balance import Balance, Routed
from exptilt.policies.engine.forward import FILLER, causal_lm, context_length, packed_states
from exptilt.policies.engine.packing import pack
from exptilt.policies.engine.passes import passes

_PADDED_TOKENS = 16_384
"""Tokens of a padded call, padding included."""


def has_score(model: Any) -> bool:
    """Tell whether a model is a decoder with one score in the place of a language model's head."""
    inner = causal_lm(model)
    return isinstance(getattr(inner, "score", None), nn.Module) and inner.config.num_labels == 1


def pooled_scores(model: Any, groups: Sequence[Group], *, packed: bool, balance: Balance | None = None) -> Tensor:
    """(C,) scores of all completions, in order, with a graph where the caller has one.

    Args:
        model: a sequence-classification model with one label; for `packed` one that `has_score`.
        groups: prompts with completions; without any the model runs all the same, and the result is empty.
        packed: whether the model runs on packed rows (`self_check.packable`).
        balance: the router's balance loss of a mixture of experts, whose gradient is added to that of the scores.

    Raises:
        DataError: a sequence exceeds the model's context; the message names its row.
        ModelError: a balance loss is asked for, and the model does not run on packed rows.
    """
    if balance is not None and not packed:
        raise ModelError(
            "the balance loss of the experts' router needs packed rows, which this model does not run on; set "
            "output_router_logits to false in its config.json"
        )
    _check_context(model, groups)
    parts = passes([model], [_with_pooled_place(group, padding_of(model)) for group in groups or [FILLER]])
    scores = [
        _packed(model, part.groups, balance if groups else None) if packed else _padded(model, part.groups)
        for part in parts
    ]
    return parts.in_order(scores, per_completion=True)[: None if groups else 0]


def padding_of(model: Any) -> int | None:
    """The padding token by which a model finds the place of its score; None where that is always the last token."""
    padding: int | None = causal_lm(model).config.get_text_config().pad_token_id
    return padding


def _check_context(model: Any, groups: Sequence[Group]) -> None:
    limit = context_length(model)
    for group in groups if limit is not None else ():
        longest = len(group.prompt) + max(len(completion.ids) for completion in group.completions)
        if longest > (limit or longest):
            raise DataError(
                f"row {group.id}: prompt and completion are {longest} tokens, the model's context is {limit}; drop the "
                "row, shorten it, or use a model with a longer context"
            )


def _with_pooled_place(group: Group, padding: int | None) -> Group:
    """The group with padding cut off the ends, and one more token at each, the only one that counts: the state before it is pooled."""
    completions = []
    for completion in group.completions:
        ids = np.append(_without_padding(completion.ids, padding), np.int32(0)).astype(np.int32)
        completions.append(Completion(ids, np.arange(len(ids)) == len(ids) - 1))
    return replace(group, completions=tuple(completions))


def _without_padding(ids: np.ndarray, padding: int | None) -> np.ndarray:
    real = np.flatnonzero(ids != padding) if padding is not None else np.arange(len(ids))
    return ids[: int(real[-1]) + 1] if len(real) else ids[:0]


def _packed(model: Any, groups: Sequence[Group], balance: Balance | None) -> Tensor:
    inner = causal_lm(model)
    packed = pack(groups, inner.device)
    back = torch.tensor(_steps_back(groups, padding_of(model)), device=packed.source.device)
    states = packed_states(model, replace(packed, source=packed.source - back), Routed.watching(balance, groups))
    return score_of(inner.score, states.hidden)


def score_of(head: nn.Module, states: Tensor) -> Tensor:
    """(C,) the head's value of (C, d) states, in the precision of its weights and outside of autocast."""
    weight = next(head.parameters())
    with torch.autocast(states.device.type, enabled=False):
        scores: Tensor = head(states.to(weight.dtype)).squeeze(1)
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def _steps_back(groups: Sequence[Group], padding: int | None) -> list[int]:
    """(C,) by how many tokens the pooled place lies before the prompt's end, where a completion is nothing but padding."""
    steps = []
    for group in groups:
        ending = len(group.prompt) - len(_without_padding(group.prompt, padding))
        steps += [
            min(ending, len(group.prompt) - 1) if len(completion.ids) == 1 else 0 for completion in group.completions
        ]
    return steps


def _padded(model: Any, groups: Sequence[Group]) -> Tensor:
    """By the model's own forward, padded on the right."""
    rows = [np.concatenate([group.prompt, one.ids[:-1]]) for group in groups for one in group.completions]
    padding, device = padding_of(model), causal_lm(model).device
    width = max(1, *(len(row) for row in rows))
    size = max(1, _PADDED_TOKENS // width) if padding is not None else 1
    scores = []
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        ids = np.full((len(part), max(1, *(len(row) for row in part))), padding or 0, dtype=np.int64)
        mask = np.zeros_like(ids)
        for number, row in enumerate(part):
            ids[number, : len(row)], mask[number, : len(row)] = row, 1
        inputs = {"input_ids": torch.from_numpy(ids).to(device), "attention_mask": torch.from_numpy(mask).to(device)}
        output = model(**inputs)
        scores.append(output.logits[:, 0])
    return torch.cat(scores).to(torch.promote_types(scores[0].dtype, torch.float32))
