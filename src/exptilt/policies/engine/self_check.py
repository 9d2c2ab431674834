"""The self-check of a model's forward, run once before its first use: may rows be packed, padded, or neither?

causal?     later tokens are changed, earlier log-probabilities must stay; a model that sees them is refused
companions  sequences alone against the same ones padded together
packing     sequences alone against one packed row
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from exptilt.data.groups import Completion, Group
from exptilt.errors import ModelError
from exptilt.policies.engine.attention import NAME
from exptilt.policies.engine.forward import causal_lm, evaluating, packed_states, separate_rows
from exptilt.policies.engine.head import unit_stats
from exptilt.policies.engine.inside import running
from exptilt.policies.engine.packing import pack
from exptilt.policies.engine.passes import lowered_border, passes, rule_of, run_alone
from exptilt.policies.engine.pooled import has_score, pooled_scores
from exptilt.wording import in_one_line

logger = logging.getLogger(__name__)

_COPY_LIMIT = 50_000_000
"""Half-precision models up to this size are checked on a float32 copy, where a mistake cannot hide in rounding."""
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
_HALF_TOLERANCE = 0.02
_NOISE = 4.0
"""Packing may change a larger half-precision model by this factor more than padding alone."""
_SCORE_TOLERANCE = 1e-5
"""By how much a float32 reward model's packed scores may differ, relative to 1 or to the largest score, beyond `_NOISE`."""
_ADDITIVE_TOLERANCE = 1e-4
"""Nats by which a float32 model's earlier log-probabilities may move in two calls of one shape: products of experts."""
_QUANTIZED_TOLERANCE = 0.5
"""Tolerance for weights in few bits, nats: LLM.int8 looks for outliers over all rows and tokens of a call, and rounds the rest."""
_BORDER = 10
"""The probe's border for a rope with two sets of frequencies: it lies between the probe's shortest and longest rows."""


@dataclass(frozen=True)
class SelfCheck:
    """The result of a self-check: whether packed rows, and padded rows, give this model's own log-probabilities."""

    packed: bool
    error: float
    """Largest difference between packed and separate log-probabilities on the probe, nats."""
    reason: str = ""
    """Why not packed."""
    alone: bool = False
    """Whether each sequence must be run by itself, because padded rows change each other."""


_CHECKED: WeakKeyDictionary[nn.Module, SelfCheck] = WeakKeyDictionary()


def packable(model: Any, probed: Any = None) -> bool:
    """Tell whether `model` runs on packed rows; the first call runs the self-check and warns if it fails.

    Args:
        model: the model that is asked about.
        probed: a smaller model of the same build, on which the self-check is run instead.

    Raises:
        ModelError: the model sees later tokens, or its log-probabilities are not finite.
    """
    inner = causal_lm(model)
    if inner not in _CHECKED:
        check = _CHECKED[inner] = self_check(model if probed is None else probed)
        if check.alone:
            run_alone(inner)
        if not check.packed:
            logger.warning(
                "%s cannot run on packed rows (%s); it scores %s instead, which is right but slower",
                type(inner).__name__,
                check.reason,
                "one sequence at a time" if check.alone else "padded sequences",
            )
    if _CHECKED[inner].packed and inner.config._attn_implementation != NAME:
        inner.set_attn_implementation(NAME)
    return _CHECKED[inner].packed


def self_check(model: Any) -> SelfCheck:
    """Compare packed, padded and separate forward passes on a probe of 40 tokens: log-probabilities, or a reward model's scores.

    The attention implementation stays switched to exptilt's if the check passes (without packed rows it does what
    `sdpa` does) and is as before if it fails. Half-precision models of up to 50 million parameters are checked on a
    float32 copy; larger ones against what padding alone changes in them, four times over, or 0.02 nats. Where the
    frequencies of the rotary positions depend on the longest row of a call, the probe has rows on both sides of that
    border.

    Raises:
        ModelError: the model sees later tokens, or its log-probabilities are not finite.
    """
    inner = causal_lm(model)
    probed = model
    if inner.dtype in (torch.bfloat16, torch.float16) and inner.num_parameters() <= _COPY_LIMIT:
        probed = copy.deepcopy(model).float()
    before = inner.config._attn_implementation
    # Autocast would hide mistakes in its rounding.
    exactly = torch.autocast(inner.device.type, enabled=False)
    with evaluating(probed), torch.no_grad(), exactly, lowered_border(causal_lm(probed), _BORDER):
        groups = _probe(inner.config.get_text_config().vocab_size)
        expected = _own(probed, groups)
        _require_finite(probed, expected)
        tolerance, alone = _padding(probed, groups, expected)
        try:
            error, reason = _compare(probed, groups, expected, tolerance)
        except Exception as failure:  # whatever a foreign architecture raises means the same: run it as its authors do
            error, reason = float("inf"), in_one_line(failure)
    inner.set_attn_implementation(before if reason else NAME)
    return SelfCheck(packed=not reason, error=error, reason=reason, alone=alone and bool(reason))


def _own(model: Any, groups: Sequence[Group]) -> Tensor:
    """Log-probabilities of all sequences of the probe, each by itself, by a model that sees no later tokens.

    Raises:
        ModelError: it sees them, or it cannot run at all.
    """
    try:
        if not has_score(model):
            _require_causal(model, groups)
        return _separate(model, [single for group in groups for single in _each(group)])
    except (ModelError, torch.OutOfMemoryError):
        raise
    except Exception as failure:  # of a foreign architecture: its config, its weights and its code do not fit
        raise ModelError(
            f"{_named(causal_lm(model))} cannot run: {in_one_line(failure)}. Its config.json, its weights and its code do not "
            "fit together"
        ) from failure


def _unsupported(model: Any) -> str:
    """The reason why a configuration rules out packed rows, for cases that no short probe could show."""
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    foreign = sorted(kinds - {"full_attention", "sliding_attention"})
    return f"layers of type {', '.join(foreign)}" if foreign else ""


def _require_causal(model: Any, groups: Sequence[Group]) -> None:
    """Refuse a model that sees later tokens, by one pair of forward passes that differ only in their later tokens.

    Raises:
        ModelError: later tokens change earlier log-probabilities.
    """
    inner = causal_lm(model)
    ids = np.concatenate([groups[1].prompt, groups[1].completions[1].ids]).astype(np.int64)
    half = len(ids) // 2
    vocabulary = int(inner.config.get_text_config().vocab_size)
    others = np.concatenate([ids[:half], (ids[half:] + vocabulary // 2) % vocabulary])
    with running(model):
        first, second = (
            model(
                input_ids=torch.from_numpy(row)[None].to(inner.device),
                attention_mask=torch.ones(1, len(row), dtype=torch.int64, device=inner.device),
                use_cache=False,
            ).logits[0, -len(row) :][:half]
            for row in (ids, others)
        )
    moved = (first.double().log_softmax(-1) - second.double().log_softmax(-1)).abs().max()
    exact = next(model.parameters()).dtype in _TOLERANCE
    allowed = _QUANTIZED_TOLERANCE if _is_quantized(inner) else _ADDITIVE_TOLERANCE if exact else _HALF_TOLERANCE
    if moved > allowed:
        raise ModelError(
            f"{_named(inner)} sees the future: other later tokens move earlier log-probabilities by {float(moved):.2g} "
            "nats. It is not a causal language model and has no likelihood of a completion; for BERT's kind set "
            "is_decoder in its config.json if it was trained so"
        )


def _require_finite(model: Any, logps: Tensor) -> None:
    if bool(torch.isfinite(logps).all()):
        return
    bad = [name for name, weight in model.named_parameters() if not bool(torch.isfinite(weight).all())]
    where = f"{len(bad)} of its tensors hold NaN or infinity (first: {bad[0]})" if bad else "its weights are finite"
    what = "scores" if has_score(model) else "log-probabilities"
    raise ModelError(
        f"{_named(causal_lm(model))}: {what} are not finite before anything was trained; {where}"
        + ("; take another checkpoint" if bad else ", so its forward overflows; try model.dtype=float32")
    )


def _is_quantized(inner: Any) -> bool:
    return getattr(inner, "quantization_method", None) is not None


def _named(inner: Any) -> str:
    return f"{inner.name_or_path} ({type(inner).__name__})" if inner.name_or_path else type(inner).__name__


def _padding(model: Any, groups: Sequence[Group], expected: Tensor) -> tuple[float, bool]:
    """The tolerance of comparisons, in nats or of scores, and whether padded rows change each other beyond rounding, or cannot be run."""
    exact = _TOLERANCE.get(next(model.parameters()).dtype)
    try:
        noise = float((_in_passes(model, groups) - expected).abs().max())
    except torch.OutOfMemoryError:
        raise
    except Exception:  # of a foreign architecture, which runs on a sequence alone
        return exact or _HALF_TOLERANCE, True
    if exact and has_score(model):
        return max(_SCORE_TOLERANCE * max(1.0, float(expected.abs().max())), _NOISE * noise), not noise <= exact
    tolerance = exact or max(_HALF_TOLERANCE, _NOISE * noise)
    limit = exact or 10 * _HALF_TOLERANCE
    return tolerance, not noise <= limit


def _in_passes(model: Any, groups: Sequence[Group]) -> Tensor:
    """(N,) log-probabilities of padded rows; rows on different sides of a border run in different calls."""
    parts = passes([model], groups)
    results = [_separate(model, part.groups) for part in parts]
    return results[0] if len(parts) == 1 else parts.in_order(results, per_completion=has_score(model))


def _compare(model: Any, groups: Sequence[Group], expected: Tensor, tolerance: float) -> tuple[float, str]:
    inner = causal_lm(model)
    reason = _unsupported(inner)
    if reason:
        return float("inf"), reason
    inner.set_attn_implementation(NAME)
    if inner.config._attn_implementation != NAME:
        return float("inf"), "its attention does not go through transformers' attention interface"
    switched = _in_passes(model, groups)
    windows: set[int | None] = set()
    parts = passes([model], groups)
    results = []
    for part in parts:
        packed = pack(part.groups, inner.device)
        states = packed_states(model, packed)
        windows |= packed.segments.windows
        if has_score(model):
            results.append(pooled_scores(model, part.groups, packed=True))
        else:
            results.append(unit_stats(states, packed.targets)["values"])
    values = parts.in_order(results, per_completion=has_score(model))
    error = max(float((values - expected).abs().max()), float((switched - expected).abs().max()))
    if not error <= tolerance:
        what = f"scores differ by {error:.2g}" if has_score(model) else f"log-probabilities differ by {error:.2g} nats"
        return error, f"packed and separate {what} on the probe"
    kinds = getattr(inner.config.get_text_config(), "layer_types", None) or ()
    if "sliding_attention" in kinds and windows <= {None}:
        return error, "its sliding window reaches attention only through a mask"
    return error, ""


def _each(group: Group) -> list[Group]:
    return [replace(group, completions=(completion,)) for completion in group.completions]


def _probe(vocabulary: int) -> list[Group]:
    """Groups for the check: two prompts, completions longer and shorter than them, and a completion of a single token."""
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


def _separate(model: Any, groups: Sequence[Group]) -> Tensor:
    """(N,) log-probabilities, or (C,) scores of a reward model, by the model's own forward.

    Each group is a call of its own if it has one completion.
    """
    calls = [[group] for group in groups] if all(len(group.completions) == 1 for group in groups) else [groups]
    rule = rule_of(causal_lm(model))
    logps = []
    for call in calls:
        rule.begin(causal_lm(model))
        if has_score(model):
            logps.append(pooled_scores(model, call, packed=False))
            continue
        logps += [rows.gather(1, targets[:, None]).squeeze(1) for rows, targets in separate_rows(model, call)]
    return torch.cat(logps)
