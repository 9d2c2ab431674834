"""Log-probabilities from hidden states, in chunks, so that long inputs never make a (tokens, vocabulary) tensor.

Logits are float32 whatever the model's dtype: products of half-precision numbers are exact in float32, and rounding
their sums to bfloat16 would cost a completion of 2,000 tokens half a nat.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from exptilt.policies.engine.distribution import log_softmax, merge, row_stats, softmax_of
from exptilt.policies.engine.product import Product, wide_product

CHUNK_ELEMENTS = 8_000_000
"""Logits held at once: 32 MB in float32, little enough for memory and enough to keep a processor busy."""
_CHUNK_ROWS = 64
"""But never fewer rows of them."""
_ACCELERATOR = 16
"""An accelerator needs larger products to be busy, and has the memory."""


@dataclass(frozen=True, eq=False)
class Head:
    """The map from a hidden state to logits: the output layer, then what the architecture does to its result."""

    layer: nn.Module
    scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def of(cls, model: Any) -> Head:
        """Read the head of a causal language model: bias, `logit_scale`, `logits_scaling`, `final_logit_softcapping`.

        The self-check finds an architecture that does anything else to its logits.
        """
        settings = model.config
        factor = float(getattr(settings, "logit_scale", None) or 1.0)
        divisor = float(getattr(settings, "logits_scaling", None) or 1.0)
        softcap = getattr(settings, "final_logit_softcapping", None)
        return cls(layer=model.get_output_embeddings(), scale=factor / divisor, softcap=softcap)

    @cached_property
    def product(self) -> Product | None:
        """The layer as one matrix product with float32 results; None for an adapter or 4-bit weights."""
        return Product.of(self.layer) if type(self.layer) is nn.Linear else None

    def logits(self, hidden: Tensor) -> Tensor:
        """Map (n, d) hidden states to (n, V) logits, float32 or better."""
        logits = self.layer(hidden) if self.product is None else wide_product(self.product, hidden)
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    @property
    def vocabulary(self) -> int:
        """Number of logits."""
        return len(self.layer.weight)  # type: ignore[arg-type]

    def rows(self, device: torch.device, elements: int = 0) -> int:
        """Number of rows that make `elements` logits; by default the number held in memory at once."""
        rows = max(_CHUNK_ROWS, (elements or CHUNK_ELEMENTS) // self.vocabulary)
        return rows if device.type == "cpu" else rows * _ACCELERATOR


@dataclass(frozen=True, eq=False)
class States:
    """The (N, d) hidden states that predict N tokens, and the head that maps them to logits."""

    head: Head
    hidden: Tensor

    def logits(self, rows: slice) -> Tensor:
        """(n, V) logits of some rows."""
        return self.head.logits(self.hidden[rows])


def unit_stats(
    states: States, targets: Tensor, names: tuple[str, ...] = (), reference: States | None = None
) -> dict[str, Tensor]:
    """Compute log-probabilities ("values") of `targets` and the named by-products, each (N,), with gradients.

    Beyond one chunk the logits are computed again in the backward pass instead of being kept: one matrix product more,
    and memory that does not grow with N times the vocabulary.

    Args:
        states: states of the policy.
        targets: (N,) token ids.
        names: any of `distribution.BYPRODUCTS` and `distribution.COMPARISONS`.
        reference: states of the reference, which `COMPARISONS` need; it gets no gradient.
    """

    def chunk(rows: slice) -> tuple[Tensor, ...]:
        if not names and not torch.is_grad_enabled():
            return (softmax_of(states.logits(rows), targets[rows, None])[0].squeeze(1),)
        with torch.no_grad():
            log_q = log_softmax(reference.logits(rows)) if reference is not None else None
        return row_stats(log_softmax(states.logits(rows)), targets[rows], names, log_q)

    cuts = list(chunks(0, len(targets), states.head.rows(targets.device)))
    again = len(cuts) > 1 and torch.is_grad_enabled()
    parts = [checkpoint(chunk, rows, use_reentrant=False) if again else chunk(rows) for rows in cuts]
    return merge(parts, names)


def chunks(begin: int, end: int, rows: int) -> Iterator[slice]:
    """Slices of similar size with at most `rows` rows each; one empty slice for an empty range."""
    count = max(1, -(-(end - begin) // rows))
    size = max(1, -(-(end - begin) // count))
    for start in range(begin, max(end, begin + 1), size):
        yield slice(start, min(start + size, end))
