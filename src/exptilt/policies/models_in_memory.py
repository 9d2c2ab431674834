"""Models and tokenizers of a Python program, under names that settings can hold."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from exptilt.data.cache import tokenizer_settings
from exptilt.errors import ModelError
from exptilt.in_memory import InMemory, from_memory, kind_in
from exptilt.policies.adapters import has_adapter
from exptilt.policies.engine.forward import causal_lm
from exptilt.policies.fingerprint import identity_of
from exptilt.policies.model_heads import ModelHead, head_of
from exptilt.settings.model_settings import ModelConfig
from exptilt.wording import in_one_line


def model_in_memory(model: Any, *, in_place: bool = False, what: str = "model") -> InMemory:
    """Give a model a name by its weights, under which `model.path` or `reference.model` can name it.

    A `peft.PeftModel` whose adapter is to be trained further is named by `adapter.path` as well.

    Args:
        model: a `transformers.PreTrainedModel` that writes text or scores it, or a `peft.PeftModel` around one.
        in_place: whether a run trains this very model; else it trains a copy, and this one stays as it is.
        what: what it is called in messages.

    Raises:
        ModelError: it is something else, or its weights are not in memory.
    """
    inner = causal_lm(model) if has_adapter(model) else model
    if not isinstance(inner, PreTrainedModel):
        raise ModelError(
            f"{what}: give a model of transformers or peft, as from_pretrained loads it, a folder or a hub id, got "
            f"{type(model).__name__}"
        )
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ModelError(f"{what}: some of its weights are not in memory (device meta); load it whole")
    _require_one_adapter(model, what)
    return InMemory.named(what, identity_of(model), model, in_place=in_place)


def tokenizer_in_memory(tokenizer: Any, what: str = "tokenizer") -> InMemory:
    """Give a tokenizer a name by its content, under which `model.tokenizer` can name it.

    Raises:
        ModelError: it is no tokenizer.
    """
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # of a processor, the part that reads text
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ModelError(
            f"{what}: give a tokenizer of transformers, a folder or a hub id, got {type(tokenizer).__name__}"
        )
    settings = tokenizer_settings(tokenizer) if tokenizer.is_fast else [repr(tokenizer), tokenizer.get_vocab()]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()
    return InMemory.named(what, digest, tokenizer)


@contextmanager
def lent(model: Any, what: str = "model") -> Iterator[InMemory]:
    """A model for scoring and sampling without a copy; afterwards its modes, device and attention are as they were.

    Raises:
        ModelError: it is no model; see `model_in_memory`.
    """
    held = model_in_memory(model, in_place=True, what=what)
    inner, device = causal_lm(model), next(model.parameters()).device
    attention, modes = inner.config._attn_implementation, {module: module.training for module in model.modules()}
    try:
        yield held
    finally:
        for module, mode in modes.items():
            module.training = mode
        if inner.config._attn_implementation != attention:
            inner.set_attn_implementation(attention)
        if next(model.parameters()).device != device:
            model.to(device)


def held_model(settings: ModelConfig, head: ModelHead) -> Any:
    """The model that `model.path` names in memory, ready to be changed: a copy, or the model itself where it is trained in place.

    Raises:
        ModelError: it has another head, or settings ask for what only loading could do.
    """
    name = str(settings.path)
    held = from_memory(name)
    what = kind_in(name)
    _require_head(held.content, head, what)
    if settings.quantize != "none":
        raise ModelError(f"{what}: is loaded already; model.quantize works with a folder or hub id")
    model = held.content if held.in_place else _copied(held.content, what)
    if settings.dtype != "auto":
        model = model.to(getattr(torch, settings.dtype))
    if settings.dropout is not None:
        _set_dropout(model, settings.dropout)
    return model


def held_tokenizer(name: str) -> Any:
    """A copy of the tokenizer that settings name in memory.

    Raises:
        ModelError: the name is a model's, which brings no tokenizer.
    """
    content = from_memory(name).content
    if not isinstance(content, PreTrainedTokenizerBase):
        raise ModelError(f"{kind_in(name)}: a model that is given as an object needs its tokenizer beside it")
    return copy.deepcopy(content)


def _require_one_adapter(model: Any, what: str) -> None:
    names = sorted(getattr(model, "peft_config", ()) if has_adapter(model) else ())
    if names not in ([], ["default"]):
        raise ModelError(
            f"{what}: has the adapters {', '.join(names)}; a run trains one, called default: merge or delete the others"
        )


def _require_head(model: Any, head: ModelHead, what: str) -> None:
    head.config(what, causal_lm(model).config)
    if head.labels is None and causal_lm(model).get_output_embeddings() is None:
        raise ModelError(f"{what}: a {type(causal_lm(model)).__name__} has no head that writes text")
    if head.labels is not None and head.labels != head_of(model).labels:
        raise ModelError(
            f"{what}: a {type(causal_lm(model)).__name__} has no score; give AutoModelForSequenceClassification with "
            "num_labels=1, or a folder or hub id, which gets one"
        )


def _copied(model: Any, what: str) -> Any:
    try:
        return copy.deepcopy(model)
    except Exception as error:  # torch refuses tensors with a graph, and hooks of others may hold what cannot be copied
        raise ModelError(f"{what}: cannot be copied ({in_one_line(error)}); give its folder") from error


def _set_dropout(model: Any, rate: float) -> None:
    """Give every dropout of a model that is made already this rate, in its modules and in the numbers they read at each pass."""
    for module in model.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = rate
        for name, value in vars(module).items():
            if ("dropout" in name or name.endswith("pdrop")) and isinstance(value, float):
                setattr(module, name, rate)
