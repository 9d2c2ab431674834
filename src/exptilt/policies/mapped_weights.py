"""Models whose weights are still pages of their files, as they are between loading and sharding.

Safetensors that are loaded in their own dtype are mapped, not read into memory. So each of several processes can hold all of a
model at no cost, as long as nothing widens, moves or copies the weights before each block is cut into shards. What has to be
done with the whole model until then is done here without a copy of it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from exptilt.policies.engine.forward import causal_lm
from exptilt.policies.sharding import blocks_of

_PROBED_LAYERS = 6
"""Layers that the self-check of a large model runs: all kinds of layers of the models that alternate them."""


def frozen_copy(model: Any) -> Any:
    """A copy of a model that shares its memory, frozen and in evaluation mode; once it is sharded, `owning` parts them."""
    return _sharing(model).eval().requires_grad_(False)


def owning(model: Any) -> Any:
    """The sharded model with shards of its own: where nothing was widened or moved, shards are views of what they were cut from."""
    model._apply(torch.Tensor.clone)
    return model


def first_layers(model: Any, count: int = _PROBED_LAYERS) -> Any:
    """A model of the first layers of another one, with its embedding and head; they share memory.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> shape = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "vocab_size": 9}
        >>> model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=5, **shape))
        >>> short = first_layers(model, 2)
        >>> len(short.model.layers), short.config.num_hidden_layers, len(model.model.layers)
        (2, 2, 5)
        >>> short.lm_head.weight.data_ptr() == model.lm_head.weight.data_ptr()
        True
    """
    short = _sharing(model)
    inner = causal_lm(short)
    blocks = {id(block) for block in blocks_of(short)}
    for module in inner.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ModuleList) and any(id(one) in blocks for one in child):
                setattr(module, name, child[:count])
    text = inner.config.get_text_config()
    text.num_hidden_layers = min(count, text.num_hidden_layers)
    if getattr(text, "layer_types", None):
        text.layer_types = list(text.layer_types[:count])
    return short


def _sharing(model: Any) -> Any:
    memo: dict[int, Any] = {id(one): nn.Parameter(one.data, requires_grad=False) for one in model.parameters()}
    return copy.deepcopy(model, memo)


@contextmanager
def as_if_float32(model: Any, *, but: Sequence[str] = ()) -> Iterator[None]:
    """Let weights pass for float32 while an adapter is put around them, which draws its own numbers in their dtype.

    Args:
        model: its weights are stand-ins of the same shapes inside the block, and themselves again after it.
        but: names of modules whose weights are copied inside the block (peft's `modules_to_save`), and stay.
    """
    weights = {
        one: one.data
        for name, one in model.named_parameters()
        if one.is_floating_point() and not set(but) & set(name.split("."))
    }
    nothing = torch.zeros((), dtype=torch.float32)
    for one in weights:
        one.data = nothing.expand(one.shape)
    try:
        yield
    finally:
        for one, own in weights.items():
            one.data = own
