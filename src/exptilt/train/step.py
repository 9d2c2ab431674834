"""One optimizer step over one global batch; how the batch is split does not change the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import nn

from exptilt.data.groups import Group
from exptilt.errors import NonFiniteError
from exptilt.train.objective import Objective
from exptilt.train.sums import Sums
from exptilt.types import LogProbs

Scorer = Callable[[Sequence[Group]], LogProbs]
"""Log-probabilities of all completions of some groups: the policy's with a gradient, or the reference's without."""

MicroBatches = Sequence[Sequence[Group]]


def accumulate(
    model: nn.Module, micro_batches: MicroBatches, objective: Objective, policy: Scorer, reference: Scorer | None
) -> Sums:
    """Leave in `.grad` the gradient of the global batch's weighted mean loss; returns the sums of its metrics.

    Gradients of sums are added up and divided once by the weight of the whole batch, so micro-batches of any size give
    one result. A loss that couples the rows of a batch is formed once over all of it: the micro-batches are scored
    without a graph, the gradient is taken with respect to the log-probabilities, and every micro-batch is scored again
    to replay its share.

    Args:
        model: whose `.grad` is filled.
        micro_batches: the global batch, cut anywhere.
        objective: the loss, joined to groups.
        policy: scores groups with a graph.
        reference: scores groups without one; None where the loss needs no reference.

    Raises:
        NonFiniteError: if the loss of a row is not finite.
    """
    walk = _coupled if objective.loss.couples_batch else _separable
    weight, sums = walk(micro_batches, objective, policy, reference)
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    torch._foreach_div_(gradients, weight)
    return sums


def require_finite_gradient(
    model: nn.Module,
    norm: float,
    micro_batches: MicroBatches,
    objective: Objective,
    scorers: tuple[Scorer, Scorer | None],
) -> None:
    """Stop before weights move if the gradient is not finite, naming the rows whose own gradient is not.

    Raises:
        NonFiniteError: with the rows; weights and optimizer are as before the step.
    """
    if norm == norm and norm != float("inf"):
        return
    rows = []
    for group in (group for groups in micro_batches for group in groups):
        model.zero_grad(set_to_none=True)
        accumulate(model, [[group]], objective, *scorers)
        if not all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None):
            rows.append(group.id)
    model.zero_grad(set_to_none=True)
    named = ", ".join(rows[:5]) if rows else "no single row; only their sum"
    raise NonFiniteError(
        f"the gradient is not finite ({norm}); no weight was moved. Rows with a non-finite gradient of their own: {named}. "
        "Look at these rows with `exptilt doctor`, lower optim.learning_rate, or use model.dtype=float32"
    )


def _separable(
    micro_batches: MicroBatches, objective: Objective, policy: Scorer, reference: Scorer | None
) -> tuple[float, Sums]:
    weight, sums = 0.0, Sums()
    for groups in micro_batches:
        output = objective(groups, policy(groups), reference(groups) if reference else None)
        output.loss.backward()  # type: ignore[no-untyped-call]
        weight += output.weight
        sums.merge(output.sums)
    return weight, sums


def _coupled(
    micro_batches: MicroBatches, objective: Objective, policy: Scorer, reference: Scorer | None
) -> tuple[float, Sums]:
    random_states, parts = [], []
    with torch.no_grad():
        for groups in micro_batches:
            random_states.append(torch.get_rng_state())
            parts.append(policy(groups))
    whole = LogProbs.cat(parts)
    leaf = whole.tokens().detach().requires_grad_()
    everything = [group for groups in micro_batches for group in groups]
    fixed = LogProbs.cat([reference(groups) for groups in micro_batches]) if reference else None
    output = objective(everything, replace(whole, values=leaf), fixed)
    (gradient,) = torch.autograd.grad(output.loss, leaf)
    after = torch.get_rng_state()
    shares = torch.split(gradient, [len(part.tokens()) for part in parts])
    for groups, share, random_state in zip(micro_batches, shares, random_states, strict=True):
        if share.count_nonzero():
            # Dropout must fall on the same units as in the first pass, or the gradient belongs to another loss.
            torch.set_rng_state(random_state)
            policy(groups).tokens().backward(share)  # type: ignore[no-untyped-call]
    torch.set_rng_state(after)
    return output.weight, output.sums
