"""Matrix products of a linear layer, with float32 results from half-precision numbers.

A product of two bfloat16 numbers is exact in float32; what costs accuracy is rounding their sum to bfloat16 again. So
the forward product keeps float32 results, and only the gradients' products round. A CPU without units for such products
takes the forward product in float32 altogether.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Product:
    """The weight of a linear layer with the copies its products need, made once for all chunks."""

    weight: Tensor
    """(V, d) the parameter itself."""
    bias: Tensor | None
    narrow: Tensor
    """(V, d) in the dtype of the multiplications: autocast's, else the weight's own."""
    wide: Tensor
    """(V, d) weight that the forward product reads: on the CPU a float32 one, without a copy if possible; elsewhere `narrow`."""

    @classmethod
    def of(cls, layer: nn.Linear) -> Product:
        """Read the weight of a layer, under the current autocast setting."""
        weight, kind = layer.weight.detach(), layer.weight.device.type
        narrow = weight.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else weight
        half = narrow.element_size() < 4
        wide = narrow if not half or kind != "cpu" else weight.float()
        return cls(layer.weight, layer.bias, narrow, wide)

    @property
    def half(self) -> bool:
        """Tell whether the multiplications are in half precision."""
        return self.narrow.element_size() < 4

    def forward(self, hidden: Tensor, out: Tensor | None = None) -> Tensor:
        """(n, V) result of hidden @ weight.T, float32 or better."""
        with torch.autocast(hidden.device.type, enabled=False):
            if self.half and self.wide is self.narrow:
                return torch.mm(hidden.to(self.narrow.dtype), self.wide.T, out_dtype=torch.float32)
            with multipliers("bf16" if self.narrow.dtype == torch.bfloat16 else None):
                return torch.mm(hidden.to(self.wide.dtype), self.wide.T, out=out)

    def to_hidden(self, gradient: Tensor) -> Tensor:
        """(n, d) gradient of `hidden`, computed from the gradient of the result."""
        return gradient.to(self.narrow.dtype) @ self.narrow


def wide_product(product: Product, hidden: Tensor) -> Tensor:
    """(n, V) result hidden @ weight.T + bias with a graph, float32 or better."""
    logits: Tensor = _WideProduct.apply(hidden, product.weight, product)  # type: ignore[no-untyped-call]
    return logits if product.bias is None else logits + product.bias.to(logits.dtype)


class _WideProduct(torch.autograd.Function):
    """The product of half-precision tensors with a float32 result that carries a graph, which torch lacks."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, product: Product) -> Tensor:
        ctx.save_for_backward(hidden)
        ctx.product = product
        return product.forward(hidden)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        product: Product = ctx.product
        (hidden,) = ctx.saved_tensors
        gradient = gradient.to(product.narrow.dtype)
        to_hidden = product.to_hidden(gradient).to(hidden.dtype) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return to_hidden, None, None
        return to_hidden, (gradient.T @ hidden.to(gradient.dtype)).to(product.weight.dtype), None


@contextmanager
def multipliers(kind: str | None) -> Iterator[None]:
    """Set the precision of float32 products on the CPU for a block; None keeps the current setting.

    "none" permits no rounding, and MKL multiplies. "bf16" permits rounding to bfloat16 if that is faster, and oneDNN multiplies.
    """
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    if kind is None or matmul is None:
        yield
        return
    before = matmul.fp32_precision
    matmul.fp32_precision = kind
    try:
        yield
    finally:
        matmul.fp32_precision = before


def prefer_onednn() -> None:
    """Let oneDNN multiply float32 on the CPU from now on, if that is faster and as exact.

    torch's default, MKL, keeps its fastest kernels for Intel's processors; on others oneDNN is more than twice as fast.
    torch gives it float32 products only together with permission to round them to bfloat16, which takes units of the
    processor to act on. If it has them, or if somebody already chose a precision, nothing changes. Its price is
    code made anew for every shape of a product, half a millisecond each; hence `packing.FEW_LENGTHS`.
    """
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    if matmul is None or matmul.fp32_precision != "none":
        return
    if torch.backends.mkl.is_available() and not _is_intel() and _rounds_nothing():  # type: ignore[no-untyped-call]
        matmul.fp32_precision = "bf16"


@cache
def _rounds_nothing() -> bool:
    """Tell whether float32 products stay float32 under that permission: rounding to bfloat16 is off by 1e-3."""
    left, right = torch.linspace(0.1, 1, 64 * 96).view(64, 96), torch.linspace(1, 0.2, 96 * 80).view(96, 80)
    with multipliers("bf16"):
        product = left @ right
    return torch.allclose(product.double(), left.double() @ right.double(), rtol=1e-5, atol=0)


@cache
def _is_intel() -> bool:
    facts = Path("/proc/cpuinfo")
    return "Intel" in (facts.read_text() if facts.exists() else platform.processor())
