"""Ragged groups as rows of a rectangle, for losses on lists.

Shape letters: B completions of G groups, one group after the other; K the size of the largest group.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class RaggedRows(NamedTuple):
    """Where each of the B completions stands in a (G, K) rectangle."""

    sizes: Tensor
    """(G,) completions per group."""
    mask: Tensor
    """(G, K) bool, True where there is a completion."""

    def spread(self, values: Tensor, fill: float = 0.0) -> Tensor:
        """(B,) values as (G, K), with `fill` where there is no completion."""
        rectangle = torch.full(self.mask.shape, fill, dtype=values.dtype, device=values.device)
        return rectangle.masked_scatter(self.mask, values)

    @staticmethod
    def sum(rectangle: Tensor) -> Tensor:
        """(G,) sums of the rows."""
        return rectangle.sum(dim=1)


def rows_of(sizes: Tensor, values: Tensor) -> RaggedRows:
    """The layout of groups of the given sizes over (B,) values, on their device.

    Raises:
        ValueError: if a group has fewer than two completions or the sizes do not add up to the completions.
    """
    if sizes.ndim != 1 or len(sizes) == 0:
        raise ValueError(f"sizes must have shape (G,), one number per group, got {tuple(sizes.shape)}")
    if int(sizes.sum()) != len(values):
        raise ValueError(f"sizes add up to {int(sizes.sum())} completions but there are {len(values)}")
    if int(sizes.min()) < 2:
        group = int((sizes < 2).nonzero()[0])
        raise ValueError(f"sizes: group {group} has {int(sizes[group])} completion; a ranking needs at least 2")
    sizes = sizes.to(values.device)
    columns = torch.arange(int(sizes.max()), device=sizes.device)
    return RaggedRows(sizes, columns.unsqueeze(0) < sizes.unsqueeze(1))


def log_softmax_rows(values: Tensor, rows: RaggedRows) -> Tensor:
    """(G, K) log-softmax inside each group; 0 where there is no completion."""
    spread = rows.spread(values, fill=-torch.inf)
    return (spread - spread.logsumexp(dim=1, keepdim=True)).masked_fill(~rows.mask, 0.0)
