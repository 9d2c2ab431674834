"""Incremental decoding of a causal language model, with its cache of keys and values."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(slots=True)
class State:
    """The state of decoding B rows between two tokens."""

    model: Any
    cache: Any
    logits: Tensor
    """(B, V) for the next token."""
    seen: Tensor
    """(B, T) every id so far, padding included."""
    mask: Tensor | None
    """(B, T) False at padding; None where nothing is padded."""

    def select(self, rows: Tensor) -> None:
        """Select rows by index, in this order; an index that repeats copies its row."""
        if len(rows) == len(self.seen) and bool((rows == torch.arange(len(rows), device=rows.device)).all()):
            return
        self.cache.batch_select_indices(rows)
        self.logits, self.seen = self.logits[rows], self.seen[rows]
        self.mask = None if self.mask is None else self.mask[rows]

    def advance(self, tokens: Tensor) -> None:
        """Feed one token to every row."""
        self.seen = torch.cat([self.seen, tokens[:, None]], dim=1)
        if self.mask is not None:
            self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], dim=1)
        rule, length = rule_of(causal_lm(self.model)), self.seen.shape[1]
        if rule.key(length) != rule.key(length - 1):  # other frequencies from here on, also for tokens in the cache
            rule.begin(causal_lm(self.model))
            self.logits, self.cache = _forward(self.model, self.seen, self.mask, None)
            return
        self.logits, self.cache = _forward(self.model, tokens[:, None], self.mask, self.cache)


def read_prompts(model: Any, prompts: Sequence[TokenIds]) -> State:
    """Feed the prompts, padded on the left if their lengths differ."""
    device = model.get_input_embeddings().weight.device
    longest = max(len(prompt) for prompt in prompts)
    # Padding repeats the row's first token, so a repetition penalty sees nothing that is not in the prompt.
    padded = [np.concatenate([np.full(longest - len(ids), ids[0], dtype=np.int64), ids]) for ids in prompts]
    seen = torch.as_tensor(np.stack(padded), dtype=torch.int64, device=device)
    mask = None
    if any(len(prompt) < longest for prompt in prompts):
        ones = [torch.ones(len(prompt), dtype=torch.bool, device=device) for prompt in prompts]
        mask = pad_sequence(ones, batch_first=True, padding_side="left")
    rule_of(causal_lm(model)).begin(causal_lm(model))
    logits, cache = _forward(model, seen, mask, None)
    return State(model=model, cache=cache, logits=logits, seen=seen, mask=mask)


def _forward(model: Any, ids: Tensor, mask: Tensor | None, cache: Any) -> tuple[Tensor, Any]:
    """(B, V) logits of the last position, and the cache."""
    extra: dict[str, Any] = {}
    accepted = inspect.signature(causal_lm(model).forward).parameters  # an adapter's forward takes any argument
    if "logits_to_keep" in accepted:
        extra["logits_to_keep"] = 1
    if asks(causal_lm(model)):
        extra["output_router_logits"] = False  # a balance loss nobody wants here, which fails on tokens with a past
    if mask is not None:
        extra["attention_mask"] = mask.long()
        extra["position_ids"] = (mask.long().cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    out = model(input_ids=ids, past_key_values=cache, use_cache=True, **extra)
    if getattr(out, "past_key_values", None) is None:
        name = type(model).__name__
        raise ModelError(f"{name} returns no cache of keys and values, so exptilt cannot sample from it token by token")
    return out.logits[:, -1], out.past_key_values
