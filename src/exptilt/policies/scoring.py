"""Log-probabilities of completions under a model: the one way every part of exptilt asks for them.

A model runs on packed rows (`packing`, `attention`, `head`). Before its first use a self-check (`forward`) compares
that with the model's own forward passes; a model that fails is run unpacked, and a warning says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from exptilt.data.groups import Completion, Group
from exptilt.errors import DataError
from exptilt.policies.balance import Balance, Routed
from exptilt.policies.forward import causal_lm, context_length, evaluating, packable, packed_states, separate_rows
from exptilt.policies.fused import LossOf, gradient_of_states
from exptilt.policies.head import BYPRODUCTS, States, merge, row_stats, unit_stats
from exptilt.policies.inside import inside
from exptilt.policies.packing import Packed, pack
from exptilt.types import LogProbs


def score(
    model: Any,
    groups: Sequence[Group],
    *,
    byproducts: Sequence[str] = (),
    reference: Any = None,
    balance: Balance | None = None,
) -> LogProbs:
    """Log-probabilities of all completions of all groups, in order, with gradients.

    Equal to separate forward passes of each completion after its prompt, in float32. Counts only `counted` tokens.

    Args:
        model: a causal language model of transformers, or a PEFT model around one.
        groups: what fits in memory at once; see `batches`. None gives no completions, and runs the model all the same.
        byproducts: any of "entropy", "log_sum_squares", "divergence"; each fills the field of that name.
        reference: the model "divergence" is measured against, KL(reference || policy); it gets no gradient.
        balance: adds the balance loss of the model's router to the gradient of whatever is made of the result.

    Raises:
        DataError: naming the row, if a sequence exceeds the model's context or a token has nothing before it.

    Example:
        >>> import numpy as np
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> from exptilt.data.groups import Completion
        >>> shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        >>> tiny = LlamaConfig(vocab_size=11, **shape)
        >>> completion = Completion(np.array([7, 8], np.int32), np.array([True, True]))
        >>> group = Group(id="a.jsonl:1", prompt=np.array([5, 6], np.int32), completions=(completion, completion))
        >>> score(LlamaForCausalLM(tiny), [group]).lengths.tolist()
        [2, 2]
    """
    _check_byproducts(byproducts, reference)
    units, lengths = unit_scores(model, groups, tuple(byproducts), reference, balance)
    return LogProbs(lengths=lengths, **units)


def head_gradients(
    model: Any,
    groups: Sequence[Group],
    loss_of: LossOf,
    *,
    byproducts: Sequence[str] = (),
    reference: Any = None,
    balance: Balance | None = None,
) -> tuple[Tensor, Tensor]:
    """A tensor and its gradient, from which backward gives the trunk its share; the head's weights have theirs already.

    For a loss that is a sum over groups, or one whose gradient in the log-probabilities is known. The same gradients as
    `loss_of(groups, score(model, groups)).backward()`, without a second pass through the head.

        hidden, gradient = head_gradients(model, groups, loss_of)
        hidden.backward(gradient)

    Args:
        model: as in `score`.
        groups: what fits in memory at once; none runs forward and backward all the same and adds zeros.
        loss_of: a scalar with a graph, from some neighbouring groups and their log-probabilities; called once for each
            of the chunks that `groups` are cut into, inside the model's forward. It must not run the model.
        byproducts: as in `score`.
        reference: as in `score`.
        balance: as in `score`.
    """
    _check_byproducts(byproducts, reference)
    return inside(model, _head_gradients, model, groups, loss_of, tuple(byproducts), reference, balance)


def unit_scores(
    model: Any, groups: Sequence[Group], names: tuple[str, ...], reference: Any = None, balance: Balance | None = None
) -> tuple[dict[str, Tensor], Tensor]:
    """(N,) log-probabilities ("values") and each of `names` of all counted tokens, and (C,) counts per completion.

    Without groups one filler row is fed all the same and nothing of it returned: where weights are sharded, processes
    run forward and backward together or not at all.
    """
    return inside(model, _unit_scores, model, groups, names, reference, balance)


_FILLER = Group(
    id="filler", prompt=np.zeros(1, np.int32), completions=(Completion(np.zeros(1, np.int32), np.zeros(1, np.bool_)),)
)
"""Two tokens of which none counts, so that everything that is asked of it is empty and has a graph."""


def _check_byproducts(byproducts: Sequence[str], reference: Any) -> None:
    unknown = [name for name in byproducts if name not in BYPRODUCTS]
    if unknown:
        raise ValueError(f"unknown byproduct {unknown[0]!r}; known: {', '.join(BYPRODUCTS)}")
    if "divergence" in byproducts and reference is None:
        raise ValueError("the byproduct 'divergence' needs the reference model; pass reference=...")


def _unit_scores(
    model: Any, groups: Sequence[Group], names: tuple[str, ...], reference: Any, balance: Balance | None
) -> tuple[dict[str, Tensor], Tensor]:
    found = _states(model, groups, reference, balance)
    if found is None:
        units = _unpacked(model, groups, names, reference, balance)
        counts = [completion.length for group in groups for completion in group.completions]
        return units, torch.tensor(counts, dtype=torch.int64, device=units["values"].device)
    packed, states, reference_states = found
    return unit_stats(states, packed.targets, names, reference_states), packed.lengths[: None if groups else 0]


def _head_gradients(
    model: Any,
    groups: Sequence[Group],
    loss_of: LossOf,
    names: tuple[str, ...],
    reference: Any,
    balance: Balance | None,
) -> tuple[Tensor, Tensor]:
    found = _states(model, groups, reference, balance)
    if found is None:
        units, lengths = _unit_scores(model, groups, names, reference, balance)
        loss = loss_of(groups, LogProbs(lengths=lengths, **units))
        return loss, torch.ones_like(loss)
    packed, states, reference_states = found
    gradient = gradient_of_states(states, packed.targets, groups, loss_of, names, reference_states)
    # A frozen trunk has no graph, and backward must still be possible.
    hidden = states.hidden if states.hidden.requires_grad else states.hidden.detach().requires_grad_()
    return hidden, gradient


def _states(
    model: Any, groups: Sequence[Group], reference: Any, balance: Balance | None
) -> tuple[Packed, States, States | None] | None:
    """What predicts the counted tokens, in the policy and in the reference; None where one of them cannot run packed."""
    models = [model] if reference is None else [model, reference]
    for one in models:
        _check_context(one, groups)
    packed = pack(groups or [_FILLER], causal_lm(model).device)
    if not all(packable(one) for one in models):
        return None
    with torch.no_grad():
        of_reference = None if reference is None else packed_states(reference, packed)
    return packed, packed_states(model, packed, Routed.watching(balance, groups)), of_reference


def score_all(
    model: Any,
    groups: Sequence[Group],
    *,
    max_tokens: int = 8192,
    byproducts: Sequence[str] = (),
    progress: str = "",
) -> list[LogProbs]:
    """Log-probabilities of each group, in order, without gradients and with dropout off.

    Args:
        model: as in `score`.
        groups: any number.
        max_tokens: unique tokens scored at once; a larger group goes alone.
        byproducts: as in `score`, without "divergence".
        progress: what a progress bar is called; shown after two seconds, never without a terminal. Empty for none.

    Returns:
        One `LogProbs` per group, on the CPU.
    """
    found: list[LogProbs | None] = [None] * len(groups)
    bar = tqdm(total=len(groups), desc=progress, unit="row", delay=2, disable=None if progress else True)
    with evaluating(model), torch.no_grad(), bar:
        for batch in batches(groups, max_tokens):
            scored = score(model, [groups[index] for index in batch], byproducts=byproducts).to("cpu")
            for index, part in zip(
                batch, split(scored, [len(groups[index].completions) for index in batch]), strict=True
            ):
                found[index] = part
            bar.update(len(batch))
    return [part for part in found if part is not None]


def batches(groups: Sequence[Group], max_tokens: int) -> Iterator[list[int]]:
    """Indices of groups of like size whose unique tokens together are at most `max_tokens`; a larger group goes alone.

    Example:
        >>> import numpy as np
        >>> groups = [Group(id=str(n), prompt=np.zeros(n, np.int32), completions=()) for n in (4, 9, 3)]
        >>> list(batches(groups, max_tokens=8))
        [[1], [0, 2]]
    """
    yield from batches_of([group.num_tokens for group in groups], max_tokens)


def batches_of(sizes: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """As `batches`, by the unique tokens of each group."""
    batch: list[int] = []
    total = 0
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        if batch and total + sizes[index] > max_tokens:
            yield batch
            batch, total = [], 0
        batch.append(index)
        total += sizes[index]
    if batch:
        yield batch


def split(logps: LogProbs, counts: Sequence[int]) -> list[LogProbs]:
    """Cut a `LogProbs` of several groups into one per group; `counts` are completions per group."""
    lengths = torch.split(logps.lengths, list(counts))
    sizes = [int(part.sum()) for part in lengths]
    names = [name for name in ("values", *BYPRODUCTS) if getattr(logps, name) is not None]
    columns = {name: torch.split(getattr(logps, name), sizes) for name in names}
    return [
        LogProbs(lengths=part, **{name: columns[name][place] for name in names}) for place, part in enumerate(lengths)
    ]


def _unpacked(
    model: Any, groups: Sequence[Group], names: tuple[str, ...], reference: Any, balance: Balance | None
) -> dict[str, Tensor]:
    parts, routed = [], Routed.watching(balance, groups)
    groups = groups or [_FILLER]
    others = None if reference is None else separate_rows(reference, groups)
    for rows, targets in separate_rows(model, groups, routed):
        with torch.no_grad():
            log_q = None if others is None else next(others)[0]
        parts.append(row_stats(rows, targets, names, log_q))
    units = merge(parts, names)
    return units if routed is None else dict(zip(units, routed.join(*units.values()), strict=True))


def _check_context(model: Any, groups: Sequence[Group]) -> None:
    """A sequence longer than the positions a model knows ends in garbage or in an index error."""
    limit = context_length(model)
    if limit is None:
        return
    for group in groups:
        fed = len(group.prompt) + max(len(completion.ids) for completion in group.completions) - 1
        if fed > limit:
            raise DataError(
                f"row {group.id}: prompt and completion are {fed + 1} tokens, the model's context is {limit}; "
                "drop the row, shorten it, or use a model with a longer context"
            )
