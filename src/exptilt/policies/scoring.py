"""Log-probabilities of completions under a model; every part of exptilt computes them here.

A model runs on packed rows (`packing`, `attention`, `head`). Before its first use a self-check (`forward`) compares
that with the model's own forward passes; a model that fails is run unpacked, and a warning says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from exptilt.data.batching import by_size
from exptilt.data.groups import Group
from exptilt.policies.engine.balance import Balance, Routed
from exptilt.policies.engine.distribution import check_byproducts
from exptilt.policies.engine.forward import (
    FILLER,
    causal_lm,
    check_context,
    evaluating,
    packed_states,
    separate_units,
)
from exptilt.policies.engine.fused import LossOf, gradient_of_states
from exptilt.policies.engine.head import States, unit_stats
from exptilt.policies.engine.inside import inside
from exptilt.policies.engine.packing import Packed, pack
from exptilt.policies.engine.passes import Passes, passes
from exptilt.policies.engine.self_check import packable
from exptilt.progress import progress_bar
from exptilt.settings.data_settings import DEFAULT_TOKENS
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

    The result equals separate forward passes of each completion after its prompt, in float32. Only `counted` tokens count.

    Args:
        model: a causal language model of transformers, or a PEFT model around one.
        groups: groups that fit in memory at once, see `by_size`. An empty list gives no completions but still runs the model.
        byproducts: any of "entropy", "log_sum_squares", "divergence", "kl"; each fills the field of that name.
        reference: the model of "divergence", KL(reference || policy), and "kl", KL(policy || reference); it gets no gradient.
        balance: adds the balance loss of the model's router to the gradient of whatever is made of the result.

    Raises:
        DataError: a sequence (the message names its row) exceeds the model's context or a token has nothing before it.

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
    check_byproducts(byproducts, reference)
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
    """The hidden states and their gradient, for backward through the trunk; the head's weights get their gradient here.

    The loss is a sum over groups, or its gradient in the log-probabilities is known. The gradients equal those of
    `loss_of(groups, score(model, groups)).backward()`, without a second pass through the head.

        hidden, gradient = head_gradients(model, groups, loss_of)
        hidden.backward(gradient)

    Args:
        model: as in `score`.
        groups: groups that fit in memory at once; an empty list still runs forward and backward, and adds zeros.
        loss_of: a scalar with a graph, from some neighbouring groups and their log-probabilities; called once for each
            of the chunks that `groups` are cut into, inside the model's forward. It must not run the model.
        byproducts: as in `score`.
        reference: as in `score`.
        balance: as in `score`.
    """
    check_byproducts(byproducts, reference)
    return inside(model, _head_gradients, model, groups, loss_of, tuple(byproducts), reference, balance)


def unit_scores(
    model: Any, groups: Sequence[Group], names: tuple[str, ...], reference: Any = None, balance: Balance | None = None
) -> tuple[dict[str, Tensor], Tensor]:
    """(N,) log-probabilities ("values") and each of `names` of all counted tokens, and (C,) counts per completion.

    Without groups one filler row is fed and its result is dropped: if weights are sharded, processes
    run forward and backward together or not at all.
    """
    return inside(model, _unit_scores, model, groups, names, reference, balance)


def _unit_scores(
    model: Any, groups: Sequence[Group], names: tuple[str, ...], reference: Any, balance: Balance | None
) -> tuple[dict[str, Tensor], Tensor]:
    parts = _passes(model, reference, groups)
    results = [_one_pass(model, part.groups, names, reference, balance) for part in parts]
    units = {name: parts.in_order([units[name] for units, _ in results]) for name in results[0][0]}
    return units, parts.in_order([lengths for _, lengths in results], per_completion=True)


def _one_pass(
    model: Any, groups: Sequence[Group], names: tuple[str, ...], reference: Any, balance: Balance | None
) -> tuple[dict[str, Tensor], Tensor]:
    """Scores of rows that may share a call, as in `unit_scores`."""
    inputs = _states(model, groups, reference, balance)
    if inputs is None:
        units = separate_units(model, groups, names, reference, balance)
        counts = [completion.length for group in groups for completion in group.completions]
        return units, torch.tensor(counts, dtype=torch.int64, device=units["values"].device)
    packed, states, reference_states = inputs
    return unit_stats(states, packed.targets, names, reference_states), packed.lengths[: None if groups else 0]


def _head_gradients(
    model: Any,
    groups: Sequence[Group],
    loss_of: LossOf,
    names: tuple[str, ...],
    reference: Any,
    balance: Balance | None,
) -> tuple[Tensor, Tensor]:
    several = len(_passes(model, reference, groups)) > 1
    inputs = None if several else _states(model, groups, reference, balance)
    if inputs is None:
        units, lengths = _unit_scores(model, groups, names, reference, balance)
        loss = loss_of(groups, LogProbs(lengths=lengths, **units))
        return loss, torch.ones_like(loss)
    packed, states, reference_states = inputs
    gradient = gradient_of_states(states, packed.targets, groups, loss_of, names, reference_states)
    # A frozen trunk has no graph, and backward must still be possible.
    hidden = states.hidden if states.hidden.requires_grad else states.hidden.detach().requires_grad_()
    return hidden, gradient


def _passes(model: Any, reference: Any, groups: Sequence[Group]) -> Passes:
    for network in _both(model, reference):
        check_context(network, groups)
        packable(network)  # the first question finds out whether rows may share a call
    return passes(_both(model, reference), groups)


def _both(model: Any, reference: Any) -> list[Any]:
    return [model] if reference is None else [model, reference]


def _states(
    model: Any, groups: Sequence[Group], reference: Any, balance: Balance | None
) -> tuple[Packed, States, States | None] | None:
    """States that predict the counted tokens, in the policy and in the reference; None if either cannot run packed."""
    packed = pack(groups or [FILLER], causal_lm(model).device)
    if not all(packable(network) for network in _both(model, reference)):
        return None
    with torch.no_grad():
        of_reference = None if reference is None else packed_states(reference, packed)
    return packed, packed_states(model, packed, Routed.watching(balance, groups)), of_reference


def score_all(
    model: Any,
    groups: Sequence[Group],
    *,
    max_tokens: int = DEFAULT_TOKENS,
    byproducts: Sequence[str] = (),
    progress: str = "",
) -> list[LogProbs]:
    """Log-probabilities of each group, in order, without gradients and with dropout off.

    Args:
        model: as in `score`.
        groups: any number.
        max_tokens: unique tokens scored at once; a larger group goes alone.
        byproducts: as in `score`, without "divergence" and "kl".
        progress: name of the progress bar; shown after two seconds, never without a terminal. Empty for none.

    Returns:
        One `LogProbs` per group, on the CPU.
    """
    logps: list[LogProbs | None] = [None] * len(groups)
    bar = progress_bar(len(groups), doing=progress, unit="row", shown=bool(progress))
    with evaluating(model), torch.no_grad(), bar:
        for batch in by_size([group.num_tokens for group in groups], max_tokens):
            scored = score(model, [groups[index] for index in batch], byproducts=byproducts).to("cpu")
            parts = scored.split([len(groups[index].completions) for index in batch])
            for index, part in zip(batch, parts, strict=True):
                logps[index] = part
            bar.update(len(batch))
    return [part for part in logps if part is not None]
