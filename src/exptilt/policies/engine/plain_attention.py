"""Attention of plain batches by its formula, for soft caps and attention sinks, which torch's fused kernels lack."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from exptilt.policies.engine.spans import Asked


def written_out(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, asked: Asked) -> Tensor:
    """Attend from (B, H, Q, d), (B, H_kv, K, d), (B, H_kv, K, d') to (B, H, Q, d') by the formula."""
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    scores = query @ key.transpose(-1, -2) * asked.scaling
    if asked.softcap is not None:
        scores = torch.tanh(scores / asked.softcap) * asked.softcap
    if mask is None:
        shape = scores.shape[-2:]
        mask = torch.ones(shape, dtype=torch.bool, device=scores.device).tril(shape[1] - shape[0])
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min) if mask.dtype == torch.bool else scores + mask
    if asked.sinks is not None:
        column = asked.sinks.reshape(1, -1, 1, 1).expand(scores.shape[0], -1, scores.shape[2], 1)
        scores = torch.cat([scores, column.to(scores.dtype)], dim=-1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, p=asked.dropout)
    return weights[..., : key.shape[2]] @ value
