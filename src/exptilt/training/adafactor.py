"""Adafactor for plain and for sharded weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate

_TINY = 1e-30
"""Added to squares, so that a gradient of zero can be divided by."""
_DECAY = 0.8
_CLIP = 1.0


class Adafactor(torch.optim.Optimizer):
    """Adam without a first moment; the second moment of a matrix is stored as one number per row and one per column.

    With s = t^-0.8 at step t and G the gradient,

        R <- (1 - s) R + s mean_columns(G^2)        C <- (1 - s) C + s mean_rows(G^2)
        U = G / sqrt(R C / mean(R))                 W <- (1 - lr * decay) W - lr U / max(1, rms(U))

    so the learning rate means what it means for AdamW: the root mean square of a step. Vectors keep the whole second
    moment.

    Source: Shazeer & Stern, https://arxiv.org/abs/1804.04235, with an external rate that is not scaled by the
    weights, as in transformers' Trainer. This is own code because torch's scales the rate by the weights and neither
    torch's nor transformers' works on sharded weights.
    """

    def __init__(self, params: Iterable[Any], lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move every weight that has a gradient."""
        for group in self.param_groups:
            for weights in group["params"]:
                if weights.grad is not None:
                    self._move(weights, weights.grad.float(), group)

    def _move(self, weights: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weights]
        state["step"] = state.get("step", 0) + 1
        fresh = state["step"] ** -_DECAY
        squares = gradient.square() + _TINY
        if gradient.ndim < 2:
            scale = _blend(state, "square", squares, fresh).rsqrt()
        else:
            rows = _blend(state, "rows", _everywhere(squares.mean(dim=-1)), fresh)
            columns = _blend(state, "columns", _everywhere(squares.mean(dim=-2)), fresh)
            rows = rows / rows.mean(dim=-1, keepdim=True)
            scale = rows.rsqrt().unsqueeze(-1) * columns.rsqrt().unsqueeze(-2)
        update = gradient * scale
        size = _everywhere(update.square().mean()).sqrt()
        weights.mul_(1 - group["lr"] * group["weight_decay"])
        weights.add_((update / (size / _CLIP).clamp(min=1.0)).to(weights.dtype), alpha=-group["lr"])


def _blend(state: dict[str, Any], name: str, now: Tensor, fresh: float) -> Tensor:
    state[name] = now if name not in state else torch.lerp(state[name], now, fresh)
    average: Tensor = state[name]
    return average


def _everywhere(tensor: Tensor) -> Tensor:
    """Gather a small statistic of a sharded matrix, so that every process has it whole."""
    return (
        tensor.redistribute(placements=[Replicate()] * tensor.device_mesh.ndim)
        if isinstance(tensor, DTensor)
        else tensor
    )
