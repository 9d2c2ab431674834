"""One optimizer step over one global batch; how the batch is split does not change the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from exptilt.data.groups import Group
from exptilt.errors import NonFiniteError, TrainingError
from exptilt.policies.policy import Policy
from exptilt.policies.world import World
from exptilt.train.objective import Objective
from exptilt.train.sums import Sums
from exptilt.types import LogProbs

Scorer = Callable[[Sequence[Group]], LogProbs]
"""Log-probabilities of all completions of some groups: the policy's with a gradient, or the reference's without.

A `Policy` is one that can also take the gradient of a loss chunk by chunk, without ever holding all logits."""

MicroBatches = Sequence[Sequence[Group]]
"""The share of one process. All have equally many; an empty one keeps step with the others' forward passes."""

_UNITS = ("values", "entropy", "log_sum_squares", "divergence")
"""Everything in a `LogProbs` that may carry a gradient."""


def accumulate(
    model: nn.Module,
    micro_batches: MicroBatches,
    objective: Objective,
    policy: Scorer,
    reference: Scorer | None,
    world: World | None = None,
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
        world: the processes that share the global batch, each with micro-batches of its own; default, this one alone.

    Raises:
        NonFiniteError: if the loss of a row is not finite.
        TrainingError: if every row has weight zero.
    """
    world = world or World.alone()
    walk = _coupled if objective.loss.couples_batch else _separable
    weight, sums = walk(micro_batches, objective, policy, reference, world)
    if not weight:
        ids = ", ".join([group.id for groups in micro_batches for group in groups][:5])
        raise TrainingError(
            f"every row of a batch has weight 0 ({ids}), so its mean is undefined; leave such rows out, "
            "or use a larger batch.size"
        )
    gradients = _gradients(model, world)
    # Sharded gradients come added up.
    world.add_up([gradient for gradient in gradients if not isinstance(gradient, DTensor)])
    torch._foreach_div_(gradients, weight)
    return sums


def _gradients(model: nn.Module, world: World) -> list[Tensor]:
    """All gradients; with other processes also zeros, since a weight one process did not touch another may have."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if world.size > 1:
        for parameter in trainable:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    return [parameter.grad for parameter in trainable if parameter.grad is not None]


def require_finite_gradient(
    model: nn.Module,
    norm: float,
    micro_batches: MicroBatches,
    objective: Objective,
    scorers: tuple[Scorer, Scorer | None],
    world: World | None = None,
) -> None:
    """Stop before weights move if the gradient is not finite, naming the rows whose own gradient is not.

    Where weights are sharded a row is only known together with the rows other processes score at the same moment.

    Raises:
        NonFiniteError: with the rows; weights and optimizer are as before the step.
    """
    if norm == norm and norm != float("inf"):
        return
    world = world or World.alone()
    mine = [group for groups in micro_batches for group in groups]
    rows = []
    for place in range(max(world.gather(len(mine)))):
        model.zero_grad(set_to_none=True)
        some = mine[place : place + 1]
        _separable([some], replace(objective), *scorers, World.alone())
        if not all(bool(_local(p.grad).isfinite().all()) for p in model.parameters() if p.grad is not None):
            rows += [group.id for group in some]
    model.zero_grad(set_to_none=True)
    rows = list(dict.fromkeys(row for found in world.gather(rows) for row in found))
    named = ", ".join(rows[:5]) if rows else "no single row; only their sum"
    raise NonFiniteError(
        f"the gradient is not finite ({norm}); no weight was moved. Rows with a non-finite gradient of their own: {named}. "
        "Look at these rows with `exptilt doctor`, lower optim.learning_rate, or use model.dtype=float32"
    )


def _local(gradient: Tensor) -> Tensor:
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient


def _separable(
    micro_batches: MicroBatches, objective: Objective, policy: Scorer, reference: Scorer | None, world: World
) -> tuple[float, Sums]:
    weights, sums = [], Sums()

    def loss_of(groups: Sequence[Group], logps: LogProbs) -> Tensor:
        anchor = _anchor(reference, groups)
        if not groups:
            return logps.tokens().sum()
        output = objective(groups, logps, anchor)
        weights.append(output.weight)
        sums.merge(output.sums)
        return output.loss

    for groups in micro_batches:
        if isinstance(policy, Policy):
            policy.backward(groups, loss_of)
        elif groups:
            loss_of(groups, policy(groups)).backward()  # type: ignore[no-untyped-call]
    weight = sum(weights)
    everyone = world.gather((weight, sums))
    total = Sums()
    for _, part in everyone:
        total.merge(part)
    return sum(part for part, _ in everyone), total


def _coupled(
    micro_batches: MicroBatches, objective: Objective, policy: Scorer, reference: Scorer | None, world: World
) -> tuple[float, Sums]:
    random_states, parts = [], []
    with torch.no_grad():
        for groups in micro_batches:
            random_states.append(_random_state())
            parts.append(policy(groups))
    mine = LogProbs.cat(parts).detach()
    said = [_anchor(reference, groups) for groups in micro_batches]
    fixed = LogProbs.cat([one for one in said if one is not None and len(one)]) if reference else None
    everyone = world.gather(([group for groups in micro_batches for group in groups], mine, fixed))
    groups_of_all = [group for groups, _, _ in everyone for group in groups]
    whole = LogProbs.cat([logps.to(mine.lengths.device) for _, logps, _ in everyone])
    anchors = [anchor.to(mine.lengths.device) for _, _, anchor in everyone if anchor is not None]
    leaves = {name: units.requires_grad_() for name in _UNITS if (units := getattr(whole, name)) is not None}
    output = objective(groups_of_all, replace(whole, **leaves), LogProbs.cat(anchors) if reference else None)
    gradients = torch.autograd.grad(output.loss, list(leaves.values()), allow_unused=True)
    before = sum(len(logps.tokens()) for _, logps, _ in everyone[: world.rank])
    after = _random_state()
    own = {name: one[before:] for name, one in zip(leaves, gradients, strict=True) if one is not None}
    for groups, part, random_state in zip(micro_batches, parts, random_states, strict=True):
        # Dropout must fall on the same units as in the first pass, or the gradient belongs to another loss.
        _restore(random_state)
        scored, size = policy(groups), len(part.tokens())
        torch.autograd.backward([getattr(scored, name) for name in own], [share[:size] for share in own.values()])
        own = {name: share[size:] for name, share in own.items()}
    _restore(after)
    return output.weight, output.sums


def _anchor(reference: Scorer | None, groups: Sequence[Group]) -> LogProbs | None:
    """What the reference says of groups. One that `runs_model` is asked even of none, in step with other processes."""
    if reference is None or not (groups or getattr(reference, "runs_model", False)):
        return None
    return reference(groups)


def _random_state() -> list[Tensor]:
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if torch.cuda.is_available() else [])]


def _restore(state: list[Tensor]) -> None:
    torch.set_rng_state(state[0])
    for device_state in state[1:]:
        torch.cuda.set_rng_state(device_state)
