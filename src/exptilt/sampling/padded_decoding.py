"""Decoding by a model's own cache of keys and values, with prompts padded on the left: right for every model."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from exptilt.data.groups import TokenIds
from exptilt.errors import ModelError
from exptilt.policies.engine.balance import asks
from exptilt.policies.engine.forward import causal_lm
from exptilt.policies.engine.passes import rule_of


class PaddedState:
    """The state of decoding B rows between two tokens; see `decode.State`.

    Args:
        model: the model.
        prompts: (P,) token ids of each.
        prompt_of: (B,) the prompt of each row.
    """

    def __init__(self, model: Any, prompts: Sequence[TokenIds], prompt_of: Sequence[int]) -> None:
        self._model, self._settings = model, forward_settings(model)
        device = model.get_input_embeddings().weight.device
        self.seen = padded_ids(prompts, device)
        longest = self.seen.shape[1]
        self._mask: Tensor | None = None
        if any(len(prompt) < longest for prompt in prompts):
            ones = [torch.ones(len(prompt), dtype=torch.bool, device=device) for prompt in prompts]
            self._mask = pad_sequence(ones, batch_first=True, padding_side="left")
        rule_of(causal_lm(model)).begin(causal_lm(model))
        self._cache: Any = None
        self.logits = self._forward(self.seen)
        self.select(torch.tensor(prompt_of, dtype=torch.int64, device=device))

    def select(self, rows: Tensor) -> None:
        """Select rows by index, in this order; an index that repeats copies its row."""
        if len(rows) == len(self.seen) and bool((rows == torch.arange(len(rows), device=rows.device)).all()):
            return
        self._cache.batch_select_indices(rows)
        self.logits, self.seen = self.logits[rows], self.seen[rows]
        self._mask = None if self._mask is None else self._mask[rows]

    def advance(self, tokens: Tensor) -> None:
        """Feed one token to every row."""
        self.seen = torch.cat([self.seen, tokens[:, None]], dim=1)
        if self._mask is not None:
            self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], dim=1)
        rule, length = rule_of(causal_lm(self._model)), self.seen.shape[1]
        if rule.key(length) != rule.key(length - 1):  # other frequencies from here on, also for tokens in the cache
            rule.begin(causal_lm(self._model))
            self._cache = None
            self.logits = self._forward(self.seen)
            return
        self.logits = self._forward(tokens[:, None])

    def _forward(self, ids: Tensor) -> Tensor:
        """(B, V) logits of the last position."""
        extra = dict(self._settings)
        if self._mask is not None:
            extra["attention_mask"] = self._mask.long()
            extra["position_ids"] = (self._mask.long().cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        out = self._model(input_ids=ids, past_key_values=self._cache, use_cache=True, **extra)
        self._cache = getattr(out, "past_key_values", None)
        if self._cache is None:
            name = type(self._model).__name__
            raise ModelError(
                f"{name} returns no cache of keys and values, so exptilt cannot sample from it token by token"
            )
        return out.logits[:, -1]  # type: ignore[no-any-return]


def forward_settings(model: Any) -> dict[str, Any]:
    """What a model's forward is given for every token: logits of the last position alone, no balance of experts."""
    accepted = inspect.signature(causal_lm(model).forward).parameters  # an adapter's forward takes any argument
    settings: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
    if asks(causal_lm(model)):
        settings["output_router_logits"] = False  # a balance loss nobody wants here, which fails on tokens with a past
    return settings


def padded_ids(prompts: Sequence[TokenIds], device: torch.device) -> Tensor:
    """(P, T) ids, filled up on the left with the prompt's first, so that a repetition penalty sees nothing that is not in it."""
    longest = max(len(prompt) for prompt in prompts)
    rows = [np.concatenate([np.full(longest - len(ids), ids[0], dtype=np.int64), ids]) for ids in prompts]
    return torch.as_tensor(np.stack(rows), dtype=torch.int64, device=device)
