"""What is equal but for rounding: ranks and statistics of such values would be those of rounding, and change with the split."""

from __future__ import annotations

import torch
from torch import Tensor

from exptilt.types import LogProbs

RELATIVE = 2 * torch.finfo(torch.float32).eps
"""The rounding of log-probabilities, relative to their size."""


def rounding_of(*scored: LogProbs | None) -> Tensor:
    """(B,) nats, how far apart sums and differences of these log-probabilities of B completions can be by rounding alone."""
    sums = [logps.sum().detach().abs() for logps in scored if logps is not None]
    return RELATIVE * torch.stack([one.to(sums[0]) for one in sums]).sum(0)


def levels(values: Tensor, rounding: Tensor) -> Tensor:
    """Ranks along the last dimension, from 0 and the lowest first; neighbours within `rounding` of each other share one.

    Example:
        >>> levels(torch.tensor([3.0, 1.0, 1.0 + 1e-6, 2.0]), torch.tensor(1e-5)).tolist()
        [2, 0, 0, 1]
    """
    order = values.detach().argsort(dim=-1, stable=True)
    risen = values.detach().gather(-1, order).diff(dim=-1) > rounding
    ranks = torch.cat([torch.zeros_like(order[..., :1]), risen.long().cumsum(-1)], dim=-1)
    return torch.zeros_like(order).scatter(-1, order, ranks)
