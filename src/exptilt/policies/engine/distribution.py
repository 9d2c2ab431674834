"""Statistics of rows of logits: log-probabilities, and other values of a token's distribution that losses use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


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


def row_stats(log_p: Tensor, targets: Tensor, names: tuple[str, ...], log_q: Tensor | None) -> tuple[Tensor, ...]:
    """Compute (n,) log-probabilities of the targets, then (n,) of each named statistic, from (n, V) log-probabilities."""
    columns = [log_p.gather(1, targets[:, None]).squeeze(1)]
    for name in names:
        if name in _OF_POLICY:
            columns.append(_OF_POLICY[name](log_p))
        elif log_q is None:
            raise ValueError(f"{name!r} compares with a reference, and none was given")
        else:
            columns.append(_OF_BOTH[name](log_p, log_q, targets))
    return tuple(columns)


def merge(parts: list[tuple[Tensor, ...]], names: tuple[str, ...]) -> dict[str, Tensor]:
    """Concatenate chunks of statistics by name."""
    columns = [column[0] if len(column) == 1 else torch.cat(column) for column in zip(*parts, strict=True)]
    return dict(zip(("values", *names), columns, strict=True))


def check_byproducts(byproducts: Sequence[str], reference: Any) -> None:
    """Raise ValueError for an unknown name, and for a name that needs a reference if there is none."""
    unknown = [name for name in byproducts if name not in BYPRODUCTS]
    if unknown:
        raise ValueError(f"unknown byproduct {unknown[0]!r}; known: {', '.join(BYPRODUCTS)}")
    compared = [name for name in byproducts if name in _OF_BOTH]
    if compared and reference is None:
        raise ValueError(f"the byproduct {compared[0]!r} needs the reference model; pass reference=...")


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
BYPRODUCTS = (*_OF_POLICY, "divergence", "kl")
"""By-products that a loss can use besides log-probabilities: KL(reference || policy) and KL(policy || reference)."""
COMPARISONS = tuple(_OF_BOTH)
"""Names that need the reference's distribution; "kl" is KL(policy || reference), "log_ratio" its value at the token."""
