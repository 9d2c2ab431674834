"""What a loss is where policy and reference are one model, asked of the loss itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from exptilt.types import LogProbs, Pair

_ROWS = 6


def loss_at_zero(loss: Any) -> float | None:
    """The loss of every row where all log-ratios are zero; None if it then still depends on the row.

    The loss is called on two sets of rows, unlike in everything but that: likelihoods, lengths, scores, labels.

    Example:
        >>> from exptilt.losses import DPO, IPO, SFT
        >>> loss_at_zero(DPO()), loss_at_zero(IPO(beta=0.1)), loss_at_zero(SFT())
        (0.6931471805599453, 25.0, None)
    """
    if not loss.needs_reference:
        return None
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        found = torch.cat([_probe(loss, longest) for longest in (3, 9)])
    value = float(found[0])
    return value if torch.allclose(found, found[0], rtol=1e-6, atol=1e-9) else None


def _probe(loss: Any, longest: int) -> Tensor:
    extra: dict[str, Any] = {name: _column(name) for name in loss.inputs if not name.startswith("mismatched")}
    if loss.is_stateful:
        extra["state"] = loss.initial_state()
    if "mismatched" in loss.inputs:
        extra["mismatched"] = extra["mismatched_reference"] = _logps(loss, longest)
    logps = _logps(loss, longest)
    if loss.kind == "pair":
        pair = Pair(logps, _logps(loss, longest))
        values: Tensor = loss(pair, pair, **extra).loss
    elif loss.kind == "unpaired":
        values = loss(logps, logps, torch.tensor([True, False] * (_ROWS // 2)), **extra).loss
    elif loss.kind == "list":
        values = loss(logps, logps, torch.tensor([_ROWS - 2, 2]), **extra).loss
    else:
        values = loss(logps, logps).loss
    return values.double()


def _logps(loss: Any, longest: int) -> LogProbs:
    lengths = torch.randint(1, longest + 1, (_ROWS,))
    num = int(lengths.sum())
    units = {
        "entropy": torch.rand(num, dtype=torch.float64),
        "log_sum_squares": -torch.rand(num, dtype=torch.float64),
        "divergence": torch.zeros(num, dtype=torch.float64),
    }
    values = -longest * torch.rand(num, dtype=torch.float64)
    return LogProbs(values=values, lengths=lengths, **{name: units[name] for name in loss.byproducts})


def _column(name: str) -> Tensor:
    if name == "chosen_is_policy":
        return torch.tensor([True, False] * (_ROWS // 2))
    if name == "ranks":
        return torch.arange(_ROWS) % (_ROWS - 2) + 1
    return 0.1 + 0.8 * torch.rand(_ROWS, dtype=torch.float64)
