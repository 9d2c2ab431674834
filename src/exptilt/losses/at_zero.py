"""What a loss is where policy and reference are one model, asked of the loss itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from exptilt.losses.calls import arguments_of, call, columns_needed, completions_per_row
from exptilt.types import LogProbs

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
    per_row = completions_per_row(loss)
    sizes = torch.tensor([_ROWS - 2, 2] if per_row is None else [per_row] * _ROWS)
    logps = _logps(loss, longest, int(sizes.sum()))
    columns = {name: _column(name) for name in columns_needed(loss)} | {"sizes": sizes}
    of_tokens = {"behaviour": logps.tokens(), "advantages": torch.rand_like(logps.tokens())}
    columns |= {name: values for name, values in of_tokens.items() if name in columns}
    state = loss.initial_state() if loss.is_stateful else None
    return call(loss, arguments_of(loss, logps, logps), columns, state).loss.double()


def _logps(loss: Any, longest: int, count: int) -> LogProbs:
    lengths = torch.randint(1, longest + 1, (count,))
    num = int(lengths.sum())
    units = {
        "entropy": torch.rand(num, dtype=torch.float64),
        "log_sum_squares": -torch.rand(num, dtype=torch.float64),
        "divergence": torch.zeros(num, dtype=torch.float64),
        "kl": torch.zeros(num, dtype=torch.float64),
    }
    values = -longest * torch.rand(num, dtype=torch.float64)
    return LogProbs(values=values, lengths=lengths, **{name: units[name] for name in loss.byproducts})


def _column(name: str) -> Tensor:
    if name in ("chosen_is_policy", "desirable"):
        return torch.tensor([True, False] * (_ROWS // 2))
    if name == "ranks":
        return torch.arange(_ROWS) % (_ROWS - 2) + 1
    return 0.1 + 0.8 * torch.rand(_ROWS, dtype=torch.float64)
