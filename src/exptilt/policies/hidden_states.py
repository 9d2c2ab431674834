"""Sums of last-layer hidden states of completions, from which CHES is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from exptilt.data.batching import by_size
from exptilt.data.groups import Group
from exptilt.policies.engine.forward import causal_lm, evaluating, packed_states
from exptilt.policies.engine.inside import inside
from exptilt.policies.engine.packing import pack
from exptilt.policies.engine.passes import passes
from exptilt.policies.engine.self_check import packable
from exptilt.progress import progress_bar
from exptilt.settings.data_settings import DEFAULT_TOKENS


@dataclass(frozen=True, eq=False, kw_only=True)
class StateSums:
    """Sums over the counted tokens of C completions; float64, on the CPU."""

    sums: Tensor
    """(C, D) sum of the hidden states that predict the counted tokens."""
    lengths: Tensor
    """(C,) int64, how many they are."""


def state_sums(
    model: Any, groups: Sequence[Group], *, max_tokens: int = DEFAULT_TOKENS, progress: str = ""
) -> StateSums:
    """Sum the states the output layer sees, from the prompt's last token to the token before the completion's last.

    The states of a completion do not depend on its neighbours in a batch: packed rows are never padded, and where a model
    cannot run on them every completion is run by itself.

    Args:
        model: a causal language model.
        groups: prompts with completions; C completions in all.
        max_tokens: unique tokens at once.
        progress: name of the progress bar; empty for none.
    """
    counts = [len(group.completions) for group in groups]
    starts = [0, *accumulate(counts)]
    width = int(causal_lm(model).get_output_embeddings().weight.shape[1])
    sums = torch.zeros(sum(counts), width, dtype=torch.float64)
    lengths = torch.zeros(sum(counts), dtype=torch.int64)
    bar = progress_bar(len(groups), doing=progress, unit="row", shown=bool(progress))
    with evaluating(model), torch.no_grad(), bar:
        for batch in by_size([group.num_tokens for group in groups], max_tokens):
            chosen = [groups[index] for index in batch]
            places = torch.cat([torch.arange(starts[index], starts[index + 1]) for index in batch])
            sizes = torch.tensor([part.length for group in chosen for part in group.completions])
            states = _packed(model, chosen) if packable(model) else _one_by_one(model, chosen)
            sums.index_add_(0, places.repeat_interleave(sizes), states.double().cpu())
            lengths[places] = sizes
            bar.update(len(batch))
    return StateSums(sums=sums, lengths=lengths)


def _packed(model: Any, groups: Sequence[Group]) -> Tensor:
    parts = passes([model], groups)
    states = []
    for part in parts:
        packed = pack(part.groups, causal_lm(model).device)
        states.append(inside(model, lambda packed=packed: packed_states(model, packed).hidden))
    return parts.in_order(states)


def _one_by_one(model: Any, groups: Sequence[Group]) -> Tensor:
    """(N, D) states before each counted token, in order, from one forward pass per completion."""
    inner, states = causal_lm(model), []
    for group in groups:
        for completion in group.completions:
            before = group.before(completion)
            fed = np.concatenate([before, completion.ids])[:-1].astype(np.int64)
            places = len(before) + np.flatnonzero(completion.counted) - 1
            output = inner.base_model(input_ids=torch.from_numpy(fed)[None].to(inner.device), use_cache=False)
            states.append(output.last_hidden_state[0][torch.from_numpy(places).to(inner.device)])
    return torch.cat(states)
