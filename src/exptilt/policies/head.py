"""From hidden states to log-probabilities, in chunks, so that long inputs never make a (tokens, vocabulary) tensor.

Logits are float32 whatever the model's dtype: products of half-precision numbers are exact in float32, and rounding
their sums to bfloat16 would cost a completion of 2,000 tokens half a nat.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from exptilt.policies.product import Product, wide_product

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

        An architecture that does anything else to its logits is found by the self-check.
        """
        settings = model.config
        factor = float(getattr(settings, "logit_scale", None) or 1.0)
        divisor = float(getattr(settings, "logits_scaling", None) or 1.0)
        softcap = getattr(settings, "final_logit_softcapping", None)
        return cls(layer=model.get_output_embeddings(), scale=factor / divisor, softcap=softcap)

    @cached_property
    def product(self) -> Product | None:
        """The layer as one matrix product with float32 results; None if it is more than that (an adapter, 4 bits)."""
        return Product.of(self.layer) if type(self.layer) is nn.Linear else None

    def logits(self, hidden: Tensor) -> Tensor:
        """(n, d) to (n, V), float32 or better."""
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
        """How many rows make `elements` logits; default, what is held at once."""
        rows = max(_CHUNK_ROWS, (elements or CHUNK_ELEMENTS) // self.vocabulary)
        return rows if device.type == "cpu" else rows * _ACCELERATOR


@dataclass(frozen=True, eq=False)
class States:
    """A head and the (N, d) hidden states that predict N tokens."""

    head: Head
    hidden: Tensor

    def logits(self, rows: slice) -> Tensor:
        """(n, V) of some rows."""
        return self.head.logits(self.hidden[rows])


def log_softmax(logits: Tensor) -> Tensor:
    """Log-probabilities in float32, or float64 for float64 logits."""
    log_p = F.log_softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    # torch adds up a large vocabulary in sequence, which is off by 1e-6 nats a token, always to the same side.
    return log_p - log_p.detach().exp().sum(dim=-1, keepdim=True).log()


def softmax_of(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(n, 1) log-probabilities of `targets` (n, 1), and all probabilities (n, V); on the CPU these overwrite the logits.

        log p(y) = z(y) - max z + log max p - log sum p

    The last term is what adding up in sequence lost, as in `log_softmax`; `sum` adds up in pairs.
    """
    top, picked = logits.amax(1, keepdim=True), logits.gather(1, targets)
    p = torch.softmax(logits, 1, out=logits) if logits.device.type == "cpu" else torch.softmax(logits, 1)
    return picked - top + p.amax(1, keepdim=True).log() - p.sum(1, keepdim=True).log(), p


def unit_stats(
    states: States, targets: Tensor, names: tuple[str, ...] = (), reference: States | None = None
) -> dict[str, Tensor]:
    """Log-probabilities ("values") of `targets` and what else is named, each (N,), with gradients.

    Beyond one chunk the logits are computed again in the backward pass instead of being kept: one matrix product more,
    and memory that does not grow with N times the vocabulary.

    Args:
        states: of the policy.
        targets: (N,) token ids.
        names: any of `BYPRODUCTS` and `COMPARISONS`.
        reference: of the reference, which `COMPARISONS` need; it gets no gradient.
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


def row_stats(log_p: Tensor, targets: Tensor, names: tuple[str, ...], log_q: Tensor | None) -> tuple[Tensor, ...]:
    """From (n, V) log-probabilities of policy and reference: (n,) of the targets, then of each name."""
    found = [log_p.gather(1, targets[:, None]).squeeze(1)]
    for name in names:
        if name in _OF_POLICY:
            found.append(_OF_POLICY[name](log_p))
        elif log_q is None:
            raise ValueError(f"{name!r} compares with a reference, and none was given")
        else:
            found.append(_OF_BOTH[name](log_p, log_q, targets))
    return tuple(found)


def merge(parts: list[tuple[Tensor, ...]], names: tuple[str, ...]) -> dict[str, Tensor]:
    """Chunks one after the other, by name."""
    columns = [column[0] if len(column) == 1 else torch.cat(column) for column in zip(*parts, strict=True)]
    return dict(zip(("values", *names), columns, strict=True))


def chunks(begin: int, end: int, rows: int) -> Iterator[slice]:
    """Slices of like size, of at most `rows` each; one empty slice for nothing."""
    count = max(1, -(-(end - begin) // rows))
    size = max(1, -(-(end - begin) // count))
    for start in range(begin, max(end, begin + 1), size):
        yield slice(start, min(start + size, end))


def _entropy(log_p: Tensor) -> Tensor:
    return -_expect(log_p, log_p)


def _log_sum_squares(log_p: Tensor) -> Tensor:
    return torch.logsumexp(2 * log_p, dim=1)


def _divergence(log_p: Tensor, log_q: Tensor, targets: Tensor) -> Tensor:
    return _expect(log_q, log_q - log_p)


def _kl(log_p: Tensor, log_q: Tensor, targets: Tensor) -> Tensor:
    return _expect(log_p, log_p - log_q)


def _log_ratio(log_p: Tensor, log_q: Tensor, targets: Tensor) -> Tensor:
    return (log_p - log_q).gather(1, targets[:, None]).squeeze(1)


def _expect(log_weights: Tensor, values: Tensor) -> Tensor:
    """Expectation of (n, V) values; a token of probability zero adds 0 also where its value is infinite or 0/0."""
    weights = log_weights.exp()
    return (weights * values.masked_fill(weights == 0, 0.0)).sum(dim=1)


_OF_POLICY: dict[str, Callable[[Tensor], Tensor]] = {"entropy": _entropy, "log_sum_squares": _log_sum_squares}
_OF_BOTH: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "divergence": _divergence,
    "kl": _kl,
    "log_ratio": _log_ratio,
}
BYPRODUCTS = (*_OF_POLICY, "divergence")
"""What a loss can ask for besides log-probabilities; "divergence" is KL(reference || policy)."""
COMPARISONS = tuple(_OF_BOTH)
"""What needs the reference's distribution; "kl" is KL(policy || reference), "log_ratio" its value at the token."""
