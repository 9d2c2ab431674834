"""Random draws that are functions of what is drawn for: the same in any batch, at any place and on any machine."""

from __future__ import annotations

import torch
from torch import Tensor


def hashed(parts: tuple[Tensor | int, ...], like: Tensor) -> Tensor:
    """An int64 for each element of `like`, made of all parts; each is a number, or int64 numbers of the shape of `like`."""
    key = torch.zeros_like(like, dtype=torch.int64)
    for part in parts:
        key = _mix(key ^ part)
    return key


def uniform(key: Tensor) -> Tensor:
    """A number in (0, 1) for each int64, in float64.

    Example:
        >>> drawn = uniform(hashed((7,), torch.arange(3)))
        >>> drawn.dtype, bool(((drawn > 0) & (drawn < 1)).all()), len(drawn.unique())
        (torch.float64, True, 1)
    """
    return (((key >> 11) & ((1 << 53) - 1)).double() + 0.5) / 2**53


def _mix(x: Tensor) -> Tensor:
    """One round of splitmix64 in wrapping int64 arithmetic (the shifts are made logical by the masks)."""
    x = x - 0x61C8864680B583EB  # the odd integer nearest 2^64 / golden ratio, as a signed number
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return x ^ ((x >> 31) & 0x1FFFFFFFF)
