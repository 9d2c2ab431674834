"""Running a model: packed rows through its trunk, whole sequences through its own forward, and whether both agree."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from exptilt.data.groups import Completion, Group
from exptilt.errors import DataError
from exptilt.policies.engine.attention import NAME, mask_of
from exptilt.policies.engine.balance import Balance, Routed
from exptilt.policies.engine.distribution import log_softmax, merge, row_stats
from exptilt.policies.engine.head import CHUNK_ELEMENTS, Head, States, unit_stats
from exptilt.policies.engine.inside import running
from exptilt.policies.engine.packing import Packed, pack

logger = logging.getLogger(__name__)

_COPY_LIMIT = 50_000_000
"""Half-precision models up to this size are checked on a float32 copy, where a mistake cannot hide in rounding."""
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
_HALF_TOLERANCE = 0.02
_NOISE = 4.0
"""How much more than by padding alone larger half-precision models may differ by packing."""


@dataclass(frozen=True)
class SelfCheck:
    """Whether packed rows give this model's own log-probabilities."""

    packed: bool
    error: float
    """Largest difference between packed and separate log-probabilities on the probe, nats."""
    reason: str = ""
    """Why not packed."""


FILLER = Group(
    id="filler", prompt=np.zeros(1, np.int32), completions=(Completion(np.zeros(1, np.int32), np.zeros(1, np.bool_)),)
)
"""Two tokens of which none counts, so that everything that is asked of it is empty and has a graph."""

_CHECKED: WeakKeyDictionary[nn.Module, SelfCheck] = WeakKeyDictionary()


def causal_lm(model: Any) -> Any:
    """The transformers model inside a PEFT wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def context_length(model: Any) -> int | None:
    """The longest sequence a model knows positions for; None for one that states no limit (recurrent, ALiBi)."""
    limit = getattr(causal_lm(model).config.get_text_config(), "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else None


def check_context(model: Any, groups: Sequence[Group]) -> None:
    """A sequence longer than the positions a model knows would end in garbage or in an index error.

    Raises:
        DataError: naming the row.
    """
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


def packable(model: Any) -> bool:
    """Whether `model` runs on packed rows; the first question runs the self-check and says aloud if not."""
    inner = causal_lm(model)
    if inner not in _CHECKED:
        _CHECKED[inner] = self_check(model)
        if not _CHECKED[inner].packed:
            logger.warning(
                "%s cannot run on packed rows (%s); it scores padded sequences instead, which is right but slower",
                type(inner).__name__,
                _CHECKED[inner].reason,
            )
    if _CHECKED[inner].packed and inner.config._attn_implementation != NAME:
        inner.set_attn_implementation(NAME)
    return _CHECKED[inner].packed


def self_check(model: Any) -> SelfCheck:
    """Compare packed with separate forward passes on a probe of 40 tokens.

    The attention implementation stays switched to exptilt's if the check passes (without packed rows it does what
    `sdpa` does) and is as before if it fails. Half-precision models of up to 50 million parameters are checked on a
    float32 copy; larger ones against what padding alone changes in them, four times over, or 0.02 nats.
    """
    inner = causal_lm(model)
    reason = _unsupported(inner)
    if reason:
        return SelfCheck(packed=False, error=float("inf"), reason=reason)
    probed = model
    if inner.dtype in (torch.bfloat16, torch.float16) and inner.num_parameters() <= _COPY_LIMIT:
        probed = copy.deepcopy(model).float()
    before = inner.config._attn_implementation
    try:
        # Autocast would hide mistakes in its rounding.
        with evaluating(probed), torch.no_grad(), torch.autocast(inner.device.type, enabled=False):
            error, reason = _compare(probed)
    except Exception as failure:  # whatever a foreign architecture raises means the same: run it as its authors do
        error, reason = float("inf"), f"{type(failure).__name__}: {str(failure).partition(chr(10))[0]}"
    if reason:
        inner.set_attn_implementation(before)
        return SelfCheck(packed=False, error=error, reason=reason)
    inner.set_attn_implementation(NAME)
    return SelfCheck(packed=True, error=error)


def _unsupported(model: Any) -> str:
    """What the configuration already rules out, because no short probe could show it."""
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    foreign = sorted(kinds - {"full_attention", "sliding_attention"})
    return f"layers of type {', '.join(foreign)}" if foreign else ""


def _compare(model: Any) -> tuple[float, str]:
    inner = causal_lm(model)
    groups = _probe(inner.config.get_text_config().vocab_size)
    own = _separate(model, groups)
    inner.set_attn_implementation(NAME)
    if inner.config._attn_implementation != NAME:
        return float("inf"), "its attention does not go through transformers' attention interface"
    switched = _separate(model, groups)
    packed = pack(groups, inner.device)
    values = unit_stats(packed_states(model, packed), packed.targets)["values"]
    error = max(float((values - own).abs().max()), float((switched - own).abs().max()))
    tolerance = _TOLERANCE.get(inner.dtype) or max(_HALF_TOLERANCE, _NOISE * _noise(model, groups, own))
    if not error <= tolerance:
        return error, f"packed and separate log-probabilities differ by {error:.2g} nats on the probe"
    kinds = getattr(inner.config.get_text_config(), "layer_types", None) or ()
    if "sliding_attention" in kinds and packed.segments.windows <= {None}:
        return error, "its sliding window reaches attention only through a mask"
    return error, ""


def _noise(model: Any, groups: Sequence[Group], padded: Tensor) -> float:
    """The largest difference between log-probabilities of padded sequences and of the same sequences alone, nats."""
    alone = [replace(group, completions=(one,)) for group in groups for one in group.completions]
    return float((torch.cat([_separate(model, [group]) for group in alone]) - padded).abs().max())


def _probe(vocabulary: int) -> list[Group]:
    """Two prompts, completions longer and shorter than them, one of a single token."""
    draw = np.random.default_rng(0)

    def ids(length: int) -> Any:
        return draw.integers(0, vocabulary, length, dtype=np.int32)

    shapes = [(9, (4, 3, 1)), (3, (7, 9))]
    return [
        Group(
            id="probe",
            prompt=ids(prompt),
            completions=tuple(Completion(ids(length), np.ones(length, dtype=np.bool_)) for length in lengths),
        )
        for prompt, lengths in shapes
    ]


def packed_states(model: Any, packed: Packed, routed: Routed | None = None) -> States:
    """Run the trunk on a packed row and keep the hidden states that predict counted tokens.

    With `routed` their gradient brings along that of the router's balance loss.
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
    """Completions after their prompts through the model's own forward, right-padded.

    Args:
        model: a causal language model.
        groups: whose completions are scored.
        routed: told what the routers did, with each prompt counted once.

    Yields:
        (n, V) log-probabilities and (n,) targets of the counted tokens of some completions, in order.
    """
    device = causal_lm(model).device
    pairs = [(group.prompt, completion) for group in groups for completion in group.completions]
    owned = [(place, number == 0) for place, group in enumerate(groups) for number in range(len(group.completions))]
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
    """What `head.unit_stats` gives, (N,) each, from sequences of their own."""
    parts, routed = [], Routed.watching(balance, groups)
    groups = groups or [FILLER]
    others = None if reference is None else separate_rows(reference, groups)
    for rows, targets in separate_rows(model, groups, routed):
        with torch.no_grad():
            log_q = None if others is None else next(others)[0]
        parts.append(row_stats(rows, targets, names, log_q))
    units = merge(parts, names)
    return units if routed is None else dict(zip(units, routed.join(*units.values()), strict=True))


def _separate(model: Any, groups: Sequence[Group]) -> Tensor:
    return torch.cat([rows.gather(1, targets[:, None]).squeeze(1) for rows, targets in separate_rows(model, groups)])


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout off for a while; every module is then as it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
