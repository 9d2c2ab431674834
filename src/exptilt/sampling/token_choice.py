"""One token for each row: the inverse of the cumulative distribution at a uniform number.

The cumulative sums are formed in two steps, over blocks of the vocabulary and then inside the block that was hit, so that a step
writes and reads one number per block instead of one per token in double precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

_BLOCK = 64
"""Tokens in a block; each row costs a sum over V tokens, V / 64 cumulative sums and 64 more."""


@dataclass(frozen=True, eq=False)
class TokenWeights:
    """Unnormalised probabilities of the next token.

    Example:
        >>> weights = TokenWeights.of(torch.tensor([[0.0, 1.0, -torch.inf]]))
        >>> [int(weights.at(torch.tensor([u]))) for u in (0.0, 0.26, 0.27, 1.0)]
        [0, 0, 1, 1]
        >>> weights.logps(torch.tensor([1])).exp().round(decimals=4)
        tensor([0.7311])
    """

    logits: Tensor
    """(B, V) float32."""
    most: Tensor
    """(B, 1) the greatest logit."""
    blocks: Tensor
    """(B, V / 64, 64) exp(logit - most), zero where the last block is filled up."""
    cumulative: Tensor
    """(B, V / 64) cumulative sums over blocks, in float64 where the device has it."""

    @classmethod
    def of(cls, logits: Tensor) -> Self:
        """The weights of a model's or a law's logits (B, V); a logit of -inf has weight 0."""
        count = logits.shape[-1]
        most = logits.amax(dim=-1, keepdim=True)
        filled = logits.new_empty(len(logits), -(-count // _BLOCK) * _BLOCK)
        filled[:, count:] = 0
        torch.exp(torch.sub(logits, most, out=filled[:, :count]), out=filled[:, :count])
        blocks = filled.view(len(logits), -1, _BLOCK)
        wide = torch.float32 if logits.device.type == "mps" else torch.float64  # Metal has no float64
        return cls(logits, most, blocks, blocks.sum(dim=-1, dtype=torch.float32).to(wide).cumsum(dim=-1))

    @property
    def are_finite(self) -> bool:
        """Whether every row has a distribution."""
        return bool(torch.isfinite(self.cumulative[:, -1]).all())

    def at(self, uniform: Tensor) -> Tensor:
        """(B,) token ids at uniform numbers in [0, 1]; a token of probability 0 is never one of them."""
        total = self.cumulative[:, -1:]
        target = torch.minimum(uniform.to(total.dtype)[:, None] * total, _below(total))
        block = torch.searchsorted(self.cumulative, target, right=True)
        before = torch.where(block > 0, self.cumulative.gather(1, (block - 1).clamp(min=0)), 0.0)
        hit = self.blocks[torch.arange(len(block), device=block.device), block.squeeze(1)]
        inside = hit.to(total.dtype).cumsum(dim=-1)
        rest = torch.minimum(target - before, _below(inside[:, -1:]))
        return (block * _BLOCK + torch.searchsorted(inside, rest, right=True)).squeeze(1)

    def logps(self, tokens: Tensor) -> Tensor:
        """(B,) log-probabilities of tokens, nats."""
        chosen = (self.logits.gather(1, tokens[:, None]) - self.most).to(self.cumulative.dtype)
        return (chosen - self.cumulative[:, -1:].log()).float().squeeze(1)


def _below(value: Tensor) -> Tensor:
    """The number just below a positive one: what is strictly below the total falls on a token of positive weight."""
    return torch.nextafter(value, torch.zeros_like(value))
