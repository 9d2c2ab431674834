"""A critic for the loop: it gives each token of a completion one value, and takes gradients of a loss on values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from exptilt.data.groups import Group
from exptilt.errors import ModelError
from exptilt.policies.engine.balance import Balance
from exptilt.policies.engine.forward import FILLER, causal_lm, check_context, packed_states
from exptilt.policies.engine.inside import inside
from exptilt.policies.engine.packing import pack
from exptilt.policies.engine.passes import passes
from exptilt.policies.engine.pooled import has_score, padding_of, score_of
from exptilt.policies.engine.self_check import packable
from exptilt.policies.scorer import LossOf
from exptilt.types import LogProbs

_PADDED_TOKENS = 16_384
"""Tokens of a padded call, padding included."""


@dataclass(eq=False)
class Critic:
    """A model with one score in the place of a language model's head, read at every counted token.

    The value of a token is the score of the state before it, V(x, y_<t). Its `LogProbs` hold values in the place of
    log-probabilities, so that micro-batches, chunks, processes and checkpoints are the code of every objective.
    """

    collective: ClassVar[bool] = True
    model: Any
    balance: Balance | None = field(init=False, default=None)
    """None: a router's balance loss is not added to a critic's gradient."""

    def __post_init__(self) -> None:
        """Refuse a model without a score.

        Raises:
            ModelError: the model is no decoder with one score.
        """
        if not has_score(self.model):
            raise ModelError(
                "critic: the model is no decoder with one score at the end of its states; name another in critic.model"
            )

    def __call__(self, groups: Sequence[Group]) -> LogProbs:
        """Values of all counted tokens of all completions, with a graph."""
        values, lengths = inside(self.model, self._values, groups)
        return LogProbs(values=values, lengths=lengths)

    def backward(self, groups: Sequence[Group], loss_of: LossOf) -> None:
        """Add the gradient of a loss that is a sum over groups; without groups it adds zeros, in step with other processes."""
        loss_of(groups, self(groups)).backward()  # type: ignore[no-untyped-call]

    def _values(self, groups: Sequence[Group]) -> tuple[Tensor, Tensor]:
        check_context(self.model, groups)
        runs_packed = packable(self.model)
        parts = passes([self.model], groups)
        results = [self._packed(part.groups) if runs_packed else self._padded(part.groups) for part in parts]
        values = parts.in_order([values for values, _ in results])
        return values, parts.in_order([lengths for _, lengths in results], per_completion=True)

    def _packed(self, groups: Sequence[Group]) -> tuple[Tensor, Tensor]:
        inner = causal_lm(self.model)
        packed = pack(groups or [FILLER], inner.device)
        values = score_of(inner.score, packed_states(self.model, packed).hidden)
        return values, packed.lengths[: None if groups else 0]

    def _padded(self, groups: Sequence[Group]) -> tuple[Tensor, Tensor]:
        """By the trunk's own forward, padded on the right."""
        inner = causal_lm(self.model)
        values = [
            score_of(inner.score, _states(inner, ids, mask)[rows, places])
            for ids, mask, rows, places in _rectangles(groups or [FILLER], padding_of(self.model) or 0)
        ]
        lengths = [completion.length for group in groups for completion in group.completions]
        return torch.cat(values), torch.tensor(lengths, dtype=torch.int64, device=inner.device)


def _states(inner: Any, ids: np.ndarray, mask: np.ndarray) -> Tensor:
    inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
    output = inner.base_model(**{name: tensor.to(inner.device) for name, tensor in inputs.items()}, use_cache=False)
    states: Tensor = output.last_hidden_state
    return states


_Rectangle = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _rectangles(groups: Sequence[Group], padding: int) -> Iterator[_Rectangle]:
    """Padded ids and masks of some completions after their prompts, and row and place of the state before each counted token."""
    pairs = [(group.before(completion), completion) for group in groups for completion in group.completions]
    longest = max(len(prompt) + len(completion.ids) for prompt, completion in pairs)
    size = max(1, _PADDED_TOKENS // longest)
    for begin in range(0, len(pairs), size):
        some = pairs[begin : begin + size]
        width = max(1, *(len(prompt) + len(completion.ids) - 1 for prompt, completion in some))
        ids = np.full((len(some), width), padding, dtype=np.int64)
        mask = np.zeros_like(ids)
        rows, places = [], []
        for number, (prompt, completion) in enumerate(some):
            fed = np.concatenate([prompt, completion.ids[:-1]])
            ids[number, : len(fed)], mask[number, : len(fed)] = fed, 1
            counted = np.flatnonzero(completion.counted)
            rows.append(np.full(len(counted), number))
            places.append(len(prompt) + counted - 1)
        yield ids, mask, np.concatenate(rows), np.concatenate(places)
