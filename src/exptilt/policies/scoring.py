"""Log-probabilities of completions under a model: the one way every part of exptilt asks for them.

A model runs on packed rows (`packing`, `attention`, `head`). Before its first use a self-check (`forward`) compares
that with the model's own forward passes; a model that fails is run unpacked, and a warning says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from exptilt.data.groups import Group
from exptilt.errors import DataError
from exptilt.policies.forward import causal_lm, context_length, evaluating, packable, packed_states, separate_rows
from exptilt.policies.head import BYPRODUCTS, merge, row_stats, unit_stats
from exptilt.policies.packing import pack
from exptilt.types import LogProbs


def score(model: Any, groups: Sequence[Group], *, byproducts: Sequence[str] = (), reference: Any = None) -> LogProbs:
    """Log-probabilities of all completions of all groups, in order, with gradients.

    Equal to separate forward passes of each completion after its prompt, in float32. Counts only `counted` tokens.

    Args:
        model: a causal language model of transformers, or a PEFT model around one.
        groups: what fits in memory at once; see `batches`.
        byproducts: any of "entropy", "log_sum_squares", "divergence"; each fills the field of that name.
        reference: the model "divergence" is measured against, KL(reference || policy); it gets no gradient.

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
    unknown = [name for name in byproducts if name not in BYPRODUCTS]
    if unknown:
        raise ValueError(f"unknown byproduct {unknown[0]!r}; known: {', '.join(BYPRODUCTS)}")
    if "divergence" in byproducts and reference is None:
        raise ValueError("the byproduct 'divergence' needs the reference model; pass reference=...")
    units, lengths = unit_scores(model, groups, tuple(byproducts), reference)
    return LogProbs(lengths=lengths, **units)


def unit_scores(
    model: Any, groups: Sequence[Group], names: tuple[str, ...], reference: Any = None
) -> tuple[dict[str, Tensor], Tensor]:
    """(N,) log-probabilities ("values") and each of `names` of all counted tokens, and (C,) counts per completion."""
    models = [model] if reference is None else [model, reference]
    for one in models:
        _check_context(one, groups)
    packed = pack(groups, causal_lm(model).device)
    if not all(packable(one) for one in models):
        return _unpacked(model, groups, names, reference), packed.lengths
    with torch.no_grad():
        reference_states = None if reference is None else packed_states(reference, packed)
    return unit_stats(packed_states(model, packed), packed.targets, names, reference_states), packed.lengths


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
    batch: list[int] = []
    total = 0
    for index in sorted(range(len(groups)), key=lambda index: -groups[index].num_tokens):
        if batch and total + groups[index].num_tokens > max_tokens:
            yield batch
            batch, total = [], 0
        batch.append(index)
        total += groups[index].num_tokens
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


def _unpacked(model: Any, groups: Sequence[Group], names: tuple[str, ...], reference: Any) -> dict[str, Tensor]:
    parts = []
    others = None if reference is None else separate_rows(reference, groups)
    for rows, targets in separate_rows(model, groups):
        with torch.no_grad():
            log_q = None if others is None else next(others)[0]
        parts.append(row_stats(rows, targets, names, log_q))
    return merge(parts, names)


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
