"""The weights a run starts from: a model as it is, one with its adapter merged, or one with its adapter frozen."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from exptilt.errors import ModelError
from exptilt.in_memory import is_in_memory, kind_in
from exptilt.policies.adapters import (
    as_one_line,
    base_of,
    find_adapter,
    has_adapter,
    load_adapter,
)
from exptilt.policies.device import is_quantized
from exptilt.policies.engine.forward import causal_lm
from exptilt.policies.gate import identify
from exptilt.policies.merging import merge
from exptilt.policies.model_heads import LANGUAGE_HEAD, ModelHead, head_of
from exptilt.policies.models import load_model, load_tokenizer
from exptilt.policies.saving import save_model
from exptilt.policies.stacked import START, why_apart
from exptilt.settings.model_settings import AdapterConfig, ModelConfig


@dataclass(frozen=True)
class Start:
    """A model before a new adapter is added to it."""

    model: Any
    dtype: torch.dtype
    """Dtype of the loaded weights, in which they are saved."""
    revision: str | None = None
    """Revision of the base, if it came from the hub."""


def load_start(
    settings: ModelConfig,
    adapter: AdapterConfig | None,
    tokenizer: Any = None,
    *,
    seed: int = 0,
    head: ModelHead = LANGUAGE_HEAD,
) -> Start:
    """Load the model that `model` and `adapter` of a recipe start from, before a new adapter is added.

    An adapter in `model.path` is part of the start, and so of the reference:

        without `adapter`   it is merged into its base in float32, and all weights are trained
        with a new one      it stays beside it, frozen; see `stacked`. Where they cannot stay side by side, a run merges it
                            into a base of its own first (`write_merged_base`) and starts from that
        with adapter.path   an adapter says itself which base it sits on, so that base is what is loaded

    Args:
        settings: which model.
        adapter: settings of the adapter to train, if any.
        tokenizer: tokenizer for `load_model`.
        seed: seed for `load_model`.
        head: head for `load_model`: of a language model, or of a reward model.

    Raises:
        ModelError: `load_model` refuses the model; weights in few bits without an adapter to train; two adapters on two bases;
            a reward model of another build than a decoder with a score.
    """
    if is_in_memory(settings.path):
        return _held_start(settings, adapter, tokenizer, seed, head)
    folder = None if settings.path is None else find_adapter(settings.path, settings.revision)
    if folder is None:
        model: Any = load_model(settings, tokenizer, seed=seed, head=head)
        _require_trainable(model, adapter, settings, head)
        return Start(model, causal_lm(model).dtype, settings.revision)
    incoming = identify(settings, head)
    base = replace(settings, path=incoming.path, revision=incoming.revision)
    model = load_model(base, tokenizer, seed=seed, head=head)
    dtype = causal_lm(model).dtype
    if adapter is not None and adapter.path is not None:
        _require_one_base(adapter.path, incoming.path)
        return Start(model, dtype, incoming.revision)
    _require_trainable(model, adapter, settings, head)
    model = load_adapter(model, folder, name=START, ignore_unexpected=settings.ignore_unexpected).eval()
    return Start(model if adapter is not None else merge(model).model, dtype, incoming.revision)


def _held_start(
    settings: ModelConfig, adapter: AdapterConfig | None, tokenizer: Any, seed: int, head: ModelHead
) -> Start:
    """A model in memory as a start; its adapter is trained further (`adapter.path` names the model) or merged into it."""
    model: Any = load_model(settings, tokenizer, seed=seed, head=head)
    dtype = causal_lm(model).dtype
    _require_trainable(model, adapter, settings, head)
    if not has_adapter(model) or (adapter is not None and adapter.path == settings.path):
        return Start(model, dtype)
    if adapter is not None:
        raise ModelError(
            f"{kind_in(str(settings.path))}: has an adapter already, and a new one cannot be put on it in memory; leave out "
            "`adapter` to train its own, or give model.merge_and_unload()"
        )
    return Start(merge(model).model, dtype)


def why_merged(settings: ModelConfig, adapter: AdapterConfig | None) -> str:
    """Why the adapter in `model.path` cannot stay beside a new one; empty if it can, or if there is no such pair."""
    from peft import PeftConfig

    if settings.path is None or is_in_memory(settings.path) or adapter is None or adapter.path is not None:
        return ""
    folder = find_adapter(settings.path, settings.revision)
    if folder is None:
        return ""
    with as_one_line(settings.path):
        return why_apart(PeftConfig.from_pretrained(str(folder)), dora=adapter.dora)


def write_merged_base(settings: ModelConfig, folder: Path, head: ModelHead = LANGUAGE_HEAD) -> float:
    """Merge the adapter in `model.path` into its base in float32, and write the result in the base's dtype.

    Args:
        settings: which adapter; its base is not quantised for this, whatever they say.
        folder: where the model and its tokenizer go.
        head: head for `load_model`.

    Returns:
        The largest difference of a log-probability between both, before rounding to the base's dtype, nats.

    Raises:
        ModelError: the adapter cannot be merged; the message says why.
    """
    tokenizer = load_tokenizer(settings)
    model = load_model(replace(settings, quantize="none"), tokenizer, head=head)
    dtype = causal_lm(model).dtype
    merged = merge(model)
    save_model(merged.model, tokenizer, folder, dtype=dtype)
    return merged.difference


def _require_trainable(model: Any, adapter: AdapterConfig | None, settings: ModelConfig, head: ModelHead) -> None:
    if head is not head_of(model):
        raise ModelError(
            f"{settings.path}: a {type(causal_lm(model)).__name__} has no head called score; exptilt trains reward models of "
            "decoders (Llama, Qwen, Mistral, GPT-2, ...)"
        )
    if adapter is None and is_quantized(model):
        raise ModelError(
            f"{settings.path}: its weights are in few bits already and cannot be trained themselves; add an adapter "
            "(adapter.rank=16) beside them, or name the model they were made from"
        )


def _require_one_base(path: str, base: str) -> None:
    folder = find_adapter(path)
    own_base = None if folder is None else base_of(folder)
    if own_base is not None and own_base != base:
        raise ModelError(
            f"adapter.path sits on {own_base}, the adapter in model.path on {base}; name one of these bases as model.path"
        )
