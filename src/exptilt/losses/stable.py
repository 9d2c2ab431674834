"""Elementary functions that stay finite, with finite gradients, where the textbook form does not."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LARGEST_PROBABILITY_LOG = -1e-7
"""Averages above this count as this in odds: 1 - p is not representable in float32 beyond it."""


def log_one_minus_exp(log_p: Tensor) -> Tensor:
    """log(1 - exp(x)) for x <= -1e-7 (larger x are taken as that); the gradient is finite everywhere.

    Example:
        >>> round(log_one_minus_exp(torch.tensor(math.log(0.25))).item(), 6) == round(math.log(0.75), 6)
        True
    """
    log_p = log_p.clamp(max=LARGEST_PROBABILITY_LOG)
    near_zero = log_p > -math.log(2)
    # Each branch gets an input that is harmless to it, as a NaN of the unused branch would reach the gradient.
    small = torch.log(-torch.expm1(torch.where(near_zero, log_p, -1.0)))
    large = torch.log1p(-torch.exp(torch.where(near_zero, -1.0, log_p)))
    return torch.where(near_zero, small, large)


def log_odds(log_p: Tensor) -> Tensor:
    """log(p / (1 - p)) from log p."""
    return log_p.clamp(max=LARGEST_PROBABILITY_LOG) - log_one_minus_exp(log_p)


def expm1_with_linear_tail(x: Tensor, limit: float = 60.0) -> Tensor:
    """exp(x) - 1 up to x = limit, and its tangent at limit beyond.

    exp overflows float32 at 88.7. A clamp would be finite too, but it stops the gradient exactly where the loss is
    largest; the tangent keeps pulling with the slope exp(limit).
    """
    return torch.expm1(x.clamp(max=limit)) + math.exp(limit) * (x - limit).clamp(min=0)
