"""`batch.tokens: auto`: the number of tokens that fit in memory at once, measured by probe steps before step 1.

No result depends on the token budget, so it may differ between machines, and between a run and its resume.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import nn

from exptilt.data.groups import Group
from exptilt.errors import TrainingError
from exptilt.policies.scorer import ModelScorer, Scorer, ScorerFunction
from exptilt.policies.scoring import score_all
from exptilt.processes.allocator import give_back
from exptilt.processes.memory import Rise, free_memory
from exptilt.processes.world import World
from exptilt.run_folder.folder import RunFolder
from exptilt.run_folder.run_record import TokenBudget
from exptilt.settings.data_settings import BatchConfig
from exptilt.settings.training_settings import OptimConfig
from exptilt.training.objective import Objective
from exptilt.training.step import accumulate
from exptilt.types import LogProbs

_SHARE = 0.85
"""Share of the free memory that is used; the rest is for fragmentation, metrics and evaluation."""
_PROBES = (1024, 4096)
_CPU_PROBES = (256, 1024)
"""Unique tokens of the two probe steps; on a CPU fewer, because there they cost time."""
MOST_TOKENS = {"cpu": 4096, "cuda": 65_536}
"""Beyond these a larger micro-batch is not faster: on a CPU measured, on a GPU the products are long since large enough."""
_LEAST = 256


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Tokens per micro-batch, and the reason for this number."""

    tokens: int
    limit: Literal["memory", "speed"]
    """The reason why it is not larger."""
    bytes_per_token: int
    """Memory of one more token, forward and backward."""
    fixed_bytes: int
    """Memory of a micro-batch beside its tokens."""
    free_bytes: int
    """Left for micro-batches when weights, gradients and optimizer have their place."""

    def in_words(self) -> str:
        """One line for people."""
        why = f"{_SHARE:.0%} of what is free" if self.limit == "memory" else "more would fit and not be faster"
        return (
            f"batch.tokens: auto found {self.tokens} tokens a micro-batch ({why}): a token takes "
            f"{self.bytes_per_token / 1e6:.3g} MB beside {self.fixed_bytes / 1e9:.2g} GB, and "
            f"{self.free_bytes / 1e9:.3g} GB are left for them"
        )


def tokens_to_fit(
    policy: ModelScorer,
    objective: Objective,
    groups: Sequence[Group],
    optimizer: OptimConfig,
    world: World | None = None,
) -> Budget:
    """Find a token budget by measuring two steps of different size; weights, gradients, optimizer and random state stay.

    Memory grows linearly with the tokens, so two points give the line. The longest rows are probed, and gradients are
    held while they run, as in every micro-batch of a step but its first.

    Args:
        policy: ready to train.
        objective: objective whose gradient is measured.
        groups: groups of one step, or more.
        optimizer: whose state will need a place.
        world: the processes that share the run; all get the smallest answer.

    Raises:
        TrainingError: not even the longest row fits.
    """
    model = policy.model
    device = next(model.parameters()).device
    sizes = _PROBES if device.type == "cuda" else _CPU_PROBES
    samples = [longest_until(groups, size) for size in sizes]
    with _scratch(model, device):
        give_back()
        free = free_memory(device) - optimizer_bytes(model, optimizer)
        measured = _rise_by_tokens(samples, lambda some: _rise(policy, objective, some, device))
    if not measured:
        raise TrainingError(
            f"not even the longest row ({samples[0][0].id}, {samples[0][0].num_tokens} tokens) fits in memory; set "
            "train.gradient_checkpointing=true, an adapter, parallel.kind=fsdp, or a smaller data.max_tokens"
        )
    budget = budget_from(measured, free, MOST_TOKENS.get(device.type, MOST_TOKENS["cuda"]))
    return min((world or World.alone()).gather(budget), key=lambda budget_of_rank: budget_of_rank.tokens)


def settle_tokens(
    batch: BatchConfig,
    optimizer: OptimConfig,
    folder: RunFolder,
    policy: ModelScorer,
    objective: Objective,
    groups: Sequence[Group],
    world: World,
) -> tuple[int | None, str]:
    """Resolve `batch.tokens` to a number, with a line for people if it was `auto`.

    The number is kept in run.json. A resumed run on the same kind of device takes it from there,
    so that it ends equal to the bit.

    Args:
        batch: says how many, or `auto`.
        optimizer: whose state will need a place.
        folder: folder of run.json.
        policy: ready to train.
        objective: objective of the run.
        groups: the rows of a step, as the objective wants them; needed for `auto` only.
        world: the processes that share the run.
    """
    if batch.tokens != "auto":
        return batch.limit, ""
    device = _device_name(next(policy.model.parameters()).device)
    known: TokenBudget | None = world.first(folder.run.token_budget)
    if known is not None and known.device == device and known.processes == world.size:
        tokens, words = known.tokens, f"batch.tokens: {known.tokens} tokens a micro-batch, as auto found before"
    else:
        budget = tokens_to_fit(policy, objective, groups, optimizer, world)
        tokens, words = budget.tokens, budget.in_words()
        folder.update_manifest(token_budget=TokenBudget(**asdict(budget), device=device, processes=world.size))
    return tokens, words


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def budget_from(measured: Sequence[tuple[int, int]], free: int, most: int) -> Budget:
    """Fit a line through the measured (tokens, bytes), up to the share of `free` that may be used.

    With a single point the line goes through zero, which overestimates the memory.

    Example:
        >>> budget_from([(1000, 30_000_000), (4000, 90_000_000)], free=1_000_000_000, most=100_000).tokens
        41984
    """
    tokens, high = measured[-1]
    slope = high / tokens
    if len(measured) > 1 and measured[0][0] < tokens:
        slope = (high - measured[0][1]) / (tokens - measured[0][0])
    slope = max(slope, 1.0)
    fixed = max(0.0, high - slope * tokens)
    fits = int((_SHARE * free - fixed) / slope) // _LEAST * _LEAST
    return Budget(
        tokens=max(_LEAST, min(fits, most)),
        limit="speed" if fits >= most else "memory",
        bytes_per_token=round(slope),
        fixed_bytes=round(fixed),
        free_bytes=free,
    )


def longest_until(groups: Sequence[Group], tokens: int) -> list[Group]:
    """The longest groups that together have at least this number of tokens."""
    chosen: list[Group] = []
    total = 0
    for group in sorted(groups, key=lambda group: -group.num_tokens):
        if total >= tokens:
            break
        chosen.append(group)
        total += group.num_tokens
    return chosen


def optimizer_bytes(model: nn.Module, optimizer: OptimConfig) -> int:
    """Memory of the optimizer beside the weights: two numbers per weight with adamw, one with rmsprop."""
    copies = 2 if optimizer.name == "adamw" else 1
    return copies * sum(_held(parameter) for parameter in model.parameters() if parameter.requires_grad)


def _held(parameter: Any) -> int:
    """Bytes of a parameter in this process."""
    local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
    return int(local.numel() * local.element_size())


def scored_now(model: Any, groups: Sequence[Group]) -> Scorer:
    """A reference for a step that is only measured: the model's own log-probabilities of these groups."""
    table = {id(group): logps for group, logps in zip(groups, score_all(model, groups), strict=True)}
    device = next(model.parameters()).device
    return ScorerFunction(lambda some: LogProbs.cat([table[id(group)] for group in some]).to(device))


def _rise_by_tokens(samples: Sequence[list[Group]], rise_of: Callable[[list[Group]], int]) -> list[tuple[int, int]]:
    """(tokens, bytes) of each sample, the smallest first, up to the first that does not fit."""
    measured: list[tuple[int, int]] = []
    for some in samples:
        try:
            measured.append((sum(group.num_tokens for group in some), rise_of(some)))
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
    return measured


def _rise(policy: ModelScorer, objective: Objective, groups: list[Group], device: torch.device) -> int:
    """Peak memory of one micro-batch, bytes."""
    reference = scored_now(policy.model, groups) if objective.loss.needs_reference else None
    # Each process probes by itself, and its running statistics are thrown away.
    trial = replace(objective, state=dict(objective.state))
    with Rise(device) as rise:
        accumulate(policy.model, [groups], trial, policy, reference)
    return rise.bytes


@contextmanager
def _scratch(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Put a model into training mode with temporary gradients; afterwards its earlier state is restored."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    before = [parameter.grad for parameter in trainable]
    modes = {module: module.training for module in model.modules()}
    model.train()
    for parameter in trainable:
        parameter.grad = torch.zeros_like(parameter)
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        for parameter, gradient in zip(trainable, before, strict=True):
            parameter.grad = gradient
        for module, mode in modes.items():
            module.training = mode
        if device.type == "cuda":
            torch.cuda.empty_cache()
