"""The head fused with the loss: log-probabilities, loss and gradients of a chunk while its logits are in the cache.

For a loss that is a sum over groups the chunks are cut between groups. Three matrix products per chunk and no second
pass, unless a single group is very large.

    residual_tv = p_t(v) - [v = y_t]        upstream_t = d loss / d log p_t(y_t)
    d loss / d hidden_t = -scale upstream_t sum_v residual_tv weight_v
    d loss / d weight_v = -scale sum_t upstream_t residual_tv hidden_t
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from exptilt.data.groups import Group
from exptilt.policies.engine.distribution import softmax_of
from exptilt.policies.engine.head import States, chunks, unit_stats
from exptilt.policies.engine.product import Product
from exptilt.types import LogProbs, on_device

GROUP_ELEMENTS = 32_000_000
"""Residuals kept until the loss of a large group is known: 64 MB in bfloat16. A larger one's logits are formed twice."""
_TOGETHER = 300_000
"""Elements of a gradient that are widened at a time: they stay in the cache."""

LossOf = Callable[[Sequence[Group], LogProbs], Tensor]
"""A loss of some groups and the log-probabilities of their completions: a scalar with a graph."""


class ChunkPart(NamedTuple):
    """Some groups, with the range of their rows among the hidden states."""

    groups: Sequence[Group]
    lengths: Tensor
    """(C,) counted tokens of each of their completions."""
    begin: int
    end: int

    def logps(self, **units: Tensor) -> LogProbs:
        """The log-probabilities that the loss receives."""
        return LogProbs(lengths=self.lengths, **units)


def gradient_of_states(
    states: States,
    targets: Tensor,
    groups: Sequence[Group],
    loss_of: LossOf,
    names: tuple[str, ...] = (),
    reference: States | None = None,
) -> Tensor:
    """(N, d) gradient of the summed `loss_of` over parts in the hidden states; the head's gradient is added to its `.grad`.

    Args:
        states: states of the N counted tokens of the groups, in order.
        targets: (N,) token ids.
        groups: whose completions' counted tokens these are.
        loss_of: called once for every part; at least once.
        names: by-products the loss needs beside log-probabilities.
        reference: states that the by-products "divergence" and "kl" compare with.
    """
    head, hidden = states.head, states.hidden.detach()
    parts = list(_parts(groups, targets.device, head.rows(targets.device)))
    gradient = torch.empty_like(hidden)
    walk: _Walk
    if head.product is not None and head.product.bias is None and head.softcap is None and not names:
        largest = max(part.end - part.begin for part in parts)
        limit = min(largest, head.rows(targets.device, GROUP_ELEMENTS))
        walk = _Residuals(head.product, head.scale, hidden, targets, (limit, head.rows(targets.device)))
    else:
        walk = _Graphs(states, targets, names, reference)
    with torch.autocast(hidden.device.type, enabled=False):  # products know their precision, and nothing else may round
        for part in parts:
            gradient[part.begin : part.end] = walk.gradient(part, loss_of)
        walk.finish()
    return gradient


class _Walk(Protocol):
    def gradient(self, part: ChunkPart, loss_of: LossOf) -> Tensor: ...

    def finish(self) -> None: ...


class _Graphs:
    """Gradients by autograd, for any head and any by-product: a graph from a part's states to its loss, used at once."""

    def __init__(self, states: States, targets: Tensor, names: tuple[str, ...], reference: States | None) -> None:
        self.states, self.targets, self.names, self.reference = states, targets, names, reference

    def gradient(self, part: ChunkPart, loss_of: LossOf) -> Tensor:
        rows = slice(part.begin, part.end)
        leaf = self.states.hidden.detach()[rows].requires_grad_()
        reference = self.reference and States(self.reference.head, self.reference.hidden[rows])
        units = unit_stats(States(self.states.head, leaf), self.targets[rows], self.names, reference)
        loss = loss_of(part.groups, part.logps(**units))
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad

    def finish(self) -> None:
        """Do nothing: autograd has added the gradients of the weights."""


class _Residuals:
    """Gradients by the formulas above, for a plain linear head and log-probabilities alone.

    On the CPU it works in buffers that every part reuses, because fresh memory of this size costs more than what is done to it.
    """

    def __init__(self, product: Product, scale: float, hidden: Tensor, targets: Tensor, rows: tuple[int, int]) -> None:
        self.product, self.scale, self.hidden, self.targets = product, scale, hidden, targets
        self.limit, self.chunk = max(1, rows[0]), rows[1]
        self.residual = product.narrow.new_empty(self.limit, len(product.weight))
        reuse = product.half and hidden.device.type == "cpu"
        self.logits = product.wide.new_empty(self.chunk if reuse else 0, len(product.weight))
        self.of_weight, self.begun = self._weight_gradient()

    def gradient(self, part: ChunkPart, loss_of: LossOf) -> Tensor:
        cuts = list(chunks(part.begin, part.end, self.limit))
        values = torch.cat([self._forward(rows) for rows in cuts]).requires_grad_()
        loss = loss_of(part.groups, part.logps(values=values))
        upstream = torch.autograd.grad(loss, values, allow_unused=True)[0] if loss.requires_grad else None
        gradient = torch.zeros_like(self.hidden[part.begin : part.end])
        if upstream is None:
            return gradient
        for rows in reversed(cuts):
            if rows is not cuts[-1]:
                self._forward(rows)  # the residuals at hand are the last cut's
            inside = slice(rows.start - part.begin, rows.stop - part.begin)
            gradient[inside] = self._backward(rows, upstream[inside, None])
        return gradient

    def _weight_gradient(self) -> tuple[Tensor | None, bool]:
        """The buffer of the weight's gradient (None for a frozen weight), and whether it holds a gradient already."""
        weight = self.product.weight
        if not weight.requires_grad:
            return None, False
        if weight.dtype != self.product.narrow.dtype:
            return torch.empty_like(self.product.narrow), False
        begun = weight.grad is not None
        if weight.grad is None:
            weight.grad = torch.empty_like(weight)
        return weight.grad, begun

    def finish(self) -> None:
        """Add the buffered gradient to the weight's `.grad`."""
        weight, gradient = self.product.weight, self.of_weight
        if gradient is not None and not self.begun:
            gradient.zero_()
        if gradient is None or gradient is weight.grad:
            return
        if weight.grad is None:
            weight.grad = gradient.to(weight.dtype)
            return
        # A sum of two dtypes makes a wide copy first: of some rows at a time, or it would be as large as the weight.
        for rows in chunks(0, len(gradient), max(1, _TOGETHER // gradient.shape[1])):
            weight.grad[rows].add_(gradient[rows])

    @torch.no_grad()
    def _forward(self, rows: slice) -> Tensor:
        """Log-probabilities of the targets; the residuals remain in the buffer."""
        logps = []
        for cut in chunks(rows.start, rows.stop, self.chunk):
            residual = self.residual[cut.start - rows.start : cut.stop - rows.start]
            buffer = self.logits[: len(residual)] if self.product.half else residual
            logits = self.product.forward(self.hidden[cut], out=buffer if len(buffer) else None)
            if self.scale != 1.0:
                logits.mul_(self.scale)
            targets = self.targets[cut, None]
            values, p = softmax_of(logits, targets)
            p.scatter_add_(1, targets, torch.full_like(values, -1.0))
            if p.data_ptr() != residual.data_ptr():
                residual.copy_(p)
            logps.append(values.squeeze(1))
        return torch.cat(logps)

    @torch.no_grad()
    def _backward(self, rows: slice, upstream: Tensor) -> Tensor:
        residual, factor = self.residual[: rows.stop - rows.start], -self.scale * upstream
        if self.of_weight is not None:
            # The first product overwrites, which spares filling a large tensor with zeros and reading them.
            states = (factor * self.hidden[rows]).to(residual.dtype)
            self.of_weight.addmm_(residual.T, states, beta=int(self.begun))
            self.begun = True
        return factor * self.product.to_hidden(residual)


def _parts(groups: Sequence[Group], device: torch.device, limit: int) -> Iterator[ChunkPart]:
    """Neighbouring groups with at most `limit` counted tokens per part; a larger group alone; one part for no groups."""
    counts = [[completion.length for completion in group.completions] for group in groups]
    first = begin = end = 0
    for index, lengths in enumerate([*counts, [limit + 1]]):
        if index == len(counts) or (end > begin and end - begin + sum(lengths) > limit):
            part_lengths = [length for some in counts[first:index] for length in some]
            yield ChunkPart(groups[first:index], on_device(part_lengths, device, torch.int64), begin, end)
            first, begin = index, end
        end += sum(lengths)
