"""Forward passes of a model: packed rows through its trunk, whole sequences through its own forward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from exptilt.data.groups import Completion, Group
from exptilt.errors import DataError
from exptilt.policies.engine.attention import mask_of
from exptilt.policies.engine.balance import Balance, Routed
from exptilt.policies.engine.distribution import log_softmax, merge, row_stats
from exptilt.policies.engine.head import CHUNK_ELEMENTS, Head, States
from exptilt.policies.engine.inside import running
from exptilt.policies.engine.packing import Packed

FILLER = Group(
    id="filler", prompt=np.zeros(1, np.int32), completions=(Completion(np.zeros(1, np.int32), np.zeros(1, np.bool_)),)
)
"""Two tokens of which none counts, so that everything that is asked of it is empty and has a graph."""


def causal_lm(model: Any) -> Any:
    """The transformers model inside a PEFT wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def context_length(model: Any) -> int | None:
    """The longest sequence a model has positions for; None for a model without a limit (recurrent, ALiBi)."""
    return context_of(causal_lm(model).config)


def context_of(config: Any) -> int | None:
    """The longest sequence that a configuration has positions for; None if it gives no limit."""
    config = config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0:
        return None
    rope = getattr(config, "rope_parameters", None) or {}
    stretches = rope.get("rope_type") == "dynamic"  # NTK: made to go beyond what it was trained with
    return int(limit * rope.get("factor", 1.0)) if stretches else limit


def check_context(model: Any, groups: Sequence[Group]) -> None:
    """Refuse sequences longer than the positions of a model, which would end in garbage or an index error.

    Raises:
        DataError: a row is too long; the message names it.
    """
    limit = context_length(model)
    if limit is None:
        return
    for group in groups:
        fed = len(group.prompt) + max((len(completion.ids) for completion in group.following), default=1) - 1
        if fed > limit:
            raise DataError(
                f"row {group.id}: prompt and completion are {fed + 1} tokens, the model's context is {limit}; "
                "drop the row, shorten it, or use a model with a longer context"
            )


def packed_states(model: Any, packed: Packed, routed: Routed | None = None) -> States:
    """Run the trunk on a packed row and keep the hidden states that predict counted tokens.

    With `routed`, their gradient includes the gradient of the router's balance loss.
    """
    inner = causal_lm(model)
    with running(model):
        output = inner.base_model(
            input_ids=packed.input_ids,
            position_ids=packed.position_ids,
            attention_mask=mask_of(packed.segments),
            use_cache=False,
            segments=packed.segments,
        )
    hidden = output.last_hidden_state[0].index_select(0, packed.source)
    if routed is not None:
        routed.add(getattr(output, "router_logits", None), routed.owners(packed.segments.num_tokens))
        (hidden,) = routed.join(hidden)
    return States(Head.of(inner), hidden)


def separate_rows(model: Any, groups: Sequence[Group], routed: Routed | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Run completions after their prompts through the model's own forward, right-padded.

    Args:
        model: a causal language model.
        groups: whose completions are scored.
        routed: told what the routers did, with each prompt counted once.

    Yields:
        (n, V) log-probabilities and (n,) targets of the counted tokens of some completions, in order.
    """
    device = causal_lm(model).device
    pairs = [(group.before(completion), completion) for group in groups for completion in group.completions]
    owned = [(index, number == 0) for index, group in enumerate(groups) for number in range(len(group.completions))]
    longest = max(len(prompt) + len(completion.ids) for prompt, completion in pairs)
    vocabulary = causal_lm(model).config.get_text_config().vocab_size
    size = max(1, CHUNK_ELEMENTS // (longest * vocabulary))
    for begin in range(0, len(pairs), size):
        sequences = [np.concatenate([prompt, completion.ids]) for prompt, completion in pairs[begin : begin + size]]
        width = max(1, *(len(sequence) - 1 for sequence in sequences))
        ids = np.zeros((len(sequences), width), dtype=np.int64)
        mask, owners = np.zeros_like(ids), np.full_like(ids, len(groups))
        rows, places, targets = [], [], []
        for number, (prompt, completion) in enumerate(pairs[begin : begin + size]):
            fed = len(sequences[number]) - 1
            ids[number, :fed], mask[number, :fed] = sequences[number][:-1], 1
            owner, with_prompt = owned[begin + number]
            owners[number, 0 if with_prompt else len(prompt) : fed] = owner
            counted = np.flatnonzero(completion.counted)
            rows.append(np.full(len(counted), number))
            places.append(len(prompt) + counted - 1)
            targets.append(completion.ids[counted].astype(np.int64))
        inputs = {"input_ids": torch.from_numpy(ids).to(device), "attention_mask": torch.from_numpy(mask).to(device)}
        # Prompt-learning adapters put positions of their own in front.
        output = model(**inputs, use_cache=False)
        logits = output.logits[:, -width:]
        if routed is not None:
            routed.add(getattr(output, "router_logits", None), owners)
        yield (
            log_softmax(logits[np.concatenate(rows), np.concatenate(places)]),
            torch.from_numpy(np.concatenate(targets)).to(device),
        )


def separate_units(
    model: Any, groups: Sequence[Group], names: tuple[str, ...], reference: Any, balance: Balance | None
) -> dict[str, Tensor]:
    """Compute the values of `head.unit_stats`, (N,) each, from one sequence per completion instead of a packed row."""
    parts, routed = [], Routed.watching(balance, groups)
    groups = groups or [FILLER]
    others = None if reference is None else separate_rows(reference, groups)
    for rows, targets in separate_rows(model, groups, routed):
        with torch.no_grad():
            log_q = None if others is None else next(others)[0]
        parts.append(row_stats(rows, targets, names, log_q))
    units = merge(parts, names)
    return units if routed is None else dict(zip(units, routed.join(*units.values()), strict=True))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout off for a block; afterwards every module has its earlier mode again."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
