"""One optimizer step over one global batch; how the batch is split does not change the result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from exptilt.data.groups import Group
from exptilt.errors import NonFiniteError
from exptilt.policies.engine.balance import Balance
from exptilt.policies.scorer import LossOf, MicroBatches, Scorer, TrainableScorer
from exptilt.processes.world import World
from exptilt.training.objective import Objective
from exptilt.training.output import Output, no_weight, not_finite
from exptilt.training.sums import Sums
from exptilt.types import LogProbs

_UNITS = ("values", "entropy", "log_sum_squares", "divergence", "kl", "whole")
"""Everything in a `LogProbs` that may carry a gradient."""

Scorers = tuple[TrainableScorer, Scorer | None]
"""Policy and reference."""


def accumulate(
    model: nn.Module,
    micro_batches: MicroBatches,
    objective: Objective,
    policy: TrainableScorer,
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
    outputs = _accumulate_losses(micro_batches, objective, (policy, reference), world)
    gradients = _gradients([weights for weights in model.parameters() if weights.requires_grad], world)
    sums = _sums_of_step(outputs, micro_batches, world, policy.balance)
    torch._foreach_div_(gradients, sums.totals["loss"][1])
    return sums


def clipped_gradient(
    weights: Sequence[nn.Parameter],
    micro_batches: MicroBatches,
    objective: Objective,
    scorers: Scorers,
    world: World,
    limit: float,
) -> Sums:
    """What `accumulate` leaves in `.grad` of all `weights` that are trained, scaled down to a norm of `limit`.

    The norm before is the metric `grad_norm`. The gradient is divided and scaled down in one pass, and where a device
    computes it, it is waited for once.

    Raises:
        NonFiniteError: a loss or the gradient is not finite; the rows are named, in every process.
        TrainingError: if every row has weight zero.
    """
    outputs = _accumulate_losses(micro_batches, objective, scorers, world)
    gradients = _gradients(weights, world)
    norm = _norm(gradients)
    sums = _sums_of_step(outputs, micro_batches, world, scorers[0].balance)
    total = sums.totals["loss"][1]
    size = float(norm) / total
    if not math.isfinite(size):
        require_finite_gradient(nn.ParameterList(weights), size, micro_batches, objective, scorers, world)
    torch._foreach_mul_(gradients, (limit / size if size > limit else 1.0) / total)  # the limit may be infinite
    sums.add("grad_norm", size, 1)
    return sums


def _accumulate_losses(
    micro_batches: MicroBatches, objective: Objective, scorers: Scorers, world: World
) -> list[Output]:
    """Add to `.grad` the gradient of the sum of the losses; what this process has to add to the sums of the step."""
    balance = scorers[0].balance
    if balance is not None:
        mine = [group for groups in micro_batches for group in groups]
        weights = (objective.weight_of(mine), math.fsum(group.weight for group in mine))
        of_loss, of_rows = (math.fsum(some) for some in zip(*world.gather(weights), strict=True))
        balance.begin(of_loss / of_rows if of_rows else 1.0)
    form = _coupled if objective.loss.couples_batch else _separable
    return form(micro_batches, objective, *scorers, world)


def _sums_of_step(
    outputs: Sequence[Output], micro_batches: MicroBatches, world: World, balance: Balance | None
) -> Sums:
    """Of all processes, with a weight and a finite loss; here the device is waited for."""
    mine, sums = Sums(), Sums()
    for output in outputs:
        mine.merge(output.sums)
    if balance is not None and balance.measured is not None:
        mine.add_block(("router_balance",), balance.measured[None])
    for part in world.gather(mine):
        sums.merge(part)
    loss, weight = sums.totals.get("loss", (0.0, 0.0))
    if not math.isfinite(loss):
        faults = world.gather([fault for output in outputs for fault in output.faults()])
        raise _told_once(not_finite([fault for some in faults for fault in some]), world)
    if not weight:
        raise no_weight([group for groups in micro_batches for group in groups])
    return sums


def _told_once(error: NonFiniteError, world: World) -> NonFiniteError:
    """Every process raises it, and the first says it to people."""
    error.told = not world.is_first
    return error


def _gradients(weights: Sequence[nn.Parameter], world: World) -> list[Tensor]:
    """All gradients, summed over processes; with other processes also zeros, since what one did not touch another may."""
    if world.size > 1:
        for one in weights:
            one.grad = torch.zeros_like(one) if one.grad is None else one.grad
    gradients = [one.grad for one in weights if one.grad is not None]
    # Sharded gradients come added up.
    world.add_up([gradient for gradient in gradients if not isinstance(gradient, DTensor)])
    return gradients


def _norm(gradients: Sequence[Tensor]) -> Tensor:
    """Over all shards."""
    norm = nn.utils.get_total_norm(gradients)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def require_finite_gradient(
    model: nn.Module,
    norm: float,
    micro_batches: MicroBatches,
    objective: Objective,
    scorers: Scorers,
    world: World | None = None,
) -> None:
    """Stop before weights move if the gradient is not finite, naming the rows whose own gradient is not.

    Each row is scored again by itself, while other processes keep step with empty micro-batches.

    Raises:
        NonFiniteError: with the rows; weights and optimizer are as before the step.
    """
    if math.isfinite(norm):
        return
    world = world or World.alone()
    mine = [group for groups in micro_batches for group in groups]
    rows = []
    for rank, count in enumerate(world.gather(len(mine))):
        for place in range(count):
            some = mine[place : place + 1] if rank == world.rank else []
            model.zero_grad(set_to_none=True)
            _separable([some], replace(objective), *scorers, world)
            own = [_local(parameter.grad) for parameter in model.parameters() if parameter.grad is not None]
            if world.any(not all(bool(gradient.isfinite().all()) for gradient in own))[0]:
                rows += [group.id for group in some]
    model.zero_grad(set_to_none=True)
    rows = list(dict.fromkeys(row for found in world.gather(rows) for row in found))
    named = ", ".join(rows[:5]) if rows else "no single row; only their sum"
    message = (
        f"the gradient is not finite ({norm}); no weight was moved. Rows with a non-finite gradient of their own: {named}. "
        "Look at these rows with `exptilt doctor`, lower optim.learning_rate, or use model.dtype=float32"
    )
    raise _told_once(NonFiniteError(message), world)


def _local(gradient: Tensor) -> Tensor:
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient


def _separable(
    micro_batches: MicroBatches, objective: Objective, policy: TrainableScorer, reference: Scorer | None, world: World
) -> list[Output]:
    outputs: list[Output] = []
    for groups in micro_batches:
        # First, while the groups are at hand and not thrown out of the processor's cache by the model.
        loss_of = _loss_of(objective, _anchor(reference, groups), outputs)
        policy.backward(groups, loss_of)
    return outputs


def _loss_of(objective: Objective, anchor: LogProbs | None, outputs: list[Output]) -> LossOf:
    """The loss of neighbouring groups of a micro-batch, in order; `anchor` is the reference's word on all of them."""
    first = first_unit = 0

    def loss_of(groups: Sequence[Group], logps: LogProbs) -> Tensor:
        nonlocal first, first_unit
        if not groups:
            return logps.tokens().sum()
        last, last_unit = first + len(logps), first_unit + len(logps.tokens())
        own = None if anchor is None else anchor.part(slice(first, last), slice(first_unit, last_unit))
        first, first_unit = last, last_unit
        output = objective.form(groups, logps, own)
        outputs.append(replace(output, loss=output.loss.detach()))
        return output.loss

    return loss_of


def _coupled(
    micro_batches: MicroBatches, objective: Objective, policy: TrainableScorer, reference: Scorer | None, world: World
) -> list[Output]:
    random_states, parts, own_anchors = [], [], []
    with torch.no_grad():
        for groups in micro_batches:
            own_anchors.append(_anchor(reference, groups))
            random_states.append(_random_state())
            parts.append(policy(groups))
    mine = LogProbs.cat(parts).detach()
    fixed = LogProbs.cat([one for one in own_anchors if one is not None and len(one)]) if reference else None
    everyone = world.gather(([group for groups in micro_batches for group in groups], mine, fixed))
    groups_of_all = [group for groups, _, _ in everyone for group in groups]
    whole = LogProbs.cat([logps.to(mine.lengths.device) for _, logps, _ in everyone])
    anchors = [anchor.to(mine.lengths.device) for _, _, anchor in everyone if anchor is not None]
    leaves = {name: units.requires_grad_() for name in _UNITS if (units := getattr(whole, name)) is not None}
    try:
        output = objective.form(groups_of_all, replace(whole, **leaves), LogProbs.cat(anchors) if reference else None)
    except NonFiniteError as error:
        raise _told_once(error, world) from None
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
    # Everybody formed the loss of all; one process has it to add.
    return [output] if world.is_first else []


def _anchor(reference: Scorer | None, groups: Sequence[Group]) -> LogProbs | None:
    """The reference's log-probabilities of groups. A collective one is asked even of none, in step with other processes."""
    if reference is None or not (groups or reference.collective):
        return None
    return reference(groups)


def _random_state() -> list[Tensor]:
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if torch.cuda.is_available() else [])]


def _restore(state: list[Tensor]) -> None:
    torch.set_rng_state(state[0])
    for device_state in state[1:]:
        torch.cuda.set_rng_state(device_state)
