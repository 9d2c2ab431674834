"""The size of a model, counted without allocating it: weights by role, and bytes that backward keeps per token.

Weights are counted on torch's meta device. The bytes backward keeps are counted by running the real engine on fake tensors
(shapes without content) through copies of the model with one and two blocks.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PreTrainedConfig

from exptilt.data.groups import Group
from exptilt.policies.adapters import with_adapter
from exptilt.policies.engine.attention import NAME
from exptilt.policies.engine.forward import causal_lm, packed_states
from exptilt.policies.engine.packing import pack
from exptilt.policies.engine.pooled import has_score
from exptilt.policies.model_heads import LANGUAGE_HEAD, ModelHead
from exptilt.settings.model_settings import AdapterConfig


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """Numbers of weights of a model, by role."""

    architecture: str
    layers: int
    width: int
    vocabulary: int
    """Logits of a counted token; a reward model has one."""
    attention: int
    """Width of all query heads of a block together."""
    total: int
    """All weights, an adapter's included; shared ones once."""
    trained: int
    body: int
    """Weights every token is multiplied with between embedding and head, an adapter's not; of experts those in use."""
    head: int
    """Weights a counted token is multiplied with to become logits; the input embedding's where they are one matrix. Of a
    reward model its score's, which one token of a completion is multiplied with."""
    adapter: int
    """Weights of a low-rank adapter in matrices."""
    body_trained: bool
    head_trained: bool


def model_size(
    architecture: PreTrainedConfig, adapter: AdapterConfig | None = None, kind: ModelHead = LANGUAGE_HEAD
) -> ModelSize:
    """Count a model's weights on the meta device; nothing is allocated.

    Example:
        >>> from transformers import LlamaConfig
        >>> tiny = LlamaConfig(hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, vocab_size=10)
        >>> size = model_size(tiny)
        >>> size.body == 2 * (4 * 8 * 8 + 3 * 8 * 16), size.head, size.total
        (True, 80, 1480)
    """
    text = architecture.get_text_config()
    model = _on_meta(architecture, adapter, kind)
    inner = causal_lm(model)
    weight = next(inner.score.parameters()) if has_score(inner) else inner.get_output_embeddings().weight
    body, lora = 0.0, 0
    for name, module in model.named_modules():
        matrices = [weight for weight in module._parameters.values() if weight is not None and weight.ndim >= 2]
        if any(one is weight for one in matrices) or isinstance(module, nn.Embedding) or not matrices:
            continue
        size = sum(weight.numel() for weight in matrices)
        if "lora_" in name:
            lora += size
        else:
            body += size * _share_in_use(text, matrices[0])
    weights = dict(model.named_parameters())
    inside = [weight for name, weight in weights.items() if "lora_" not in name and weight.ndim >= 2]
    return ModelSize(
        architecture=type(inner).__name__,
        layers=text.num_hidden_layers,
        width=text.hidden_size,
        vocabulary=1 if has_score(inner) else text.vocab_size,
        attention=text.num_attention_heads
        * (getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads),
        total=sum(weight.numel() for weight in weights.values()),
        trained=sum(weight.numel() for weight in weights.values() if weight.requires_grad),
        body=round(body),
        head=weight.numel(),
        adapter=lora,
        body_trained=adapter is None and any(weight.requires_grad for weight in inside),
        head_trained=has_score(inner) or bool(weight.requires_grad),
    )


@dataclass(frozen=True)
class Kept:
    """Bytes that backward keeps of a forward pass through the blocks: `fixed + tokens * (base + layers * block)`."""

    fixed: float
    """Beside the tokens, for the whole model: copies of weights in the products' precision."""
    base: float
    block: float
    counted: bool
    """False where the architecture could not be run on fake tensors and a formula for dense models stands in."""

    def of(self, tokens: float, layers: int) -> float:
        """Total bytes."""
        return self.fixed + tokens * (self.base + layers * self.block)


def kept_bytes(
    architecture: PreTrainedConfig,
    groups: Sequence[Group],
    *,
    adapter: AdapterConfig | None,
    weights: torch.dtype,
    products: torch.dtype,
    kind: ModelHead = LANGUAGE_HEAD,
) -> Kept:
    """Count the bytes that backward keeps, on fake tensors.

    Args:
        architecture: of the model.
        groups: rows as the run has them; the first half and all of them are run.
        adapter: around it.
        weights: dtype of the weights.
        products: dtype of the matrix products, under autocast where it differs.
        kind: head of the model.
    """
    points = {}
    half = groups[: max(1, len(groups) // 2)]
    logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.CRITICAL)  # else a failure is told twice
    try:
        for layers in (1, 2):
            twin = shortened(architecture, layers)
            for some in (half, groups):
                points[layers, len(some)] = _saved(twin, some, adapter, weights, products, kind)
    except Exception:  # a foreign architecture on fake tensors may raise anything; the formula is right for most
        return _dense(architecture, products)
    few, many = (sum(_fed(group) for group in some) for some in (half, groups))
    one, two = points[1, len(groups)], points[2, len(groups)]
    if many == few:
        return Kept(0.0, max(0.0, 2 * one - two) / many, (two - one) / many, counted=True)
    slopes = [(points[n, len(groups)] - points[n, len(half)]) / (many - few) for n in (1, 2)]
    block = slopes[1] - slopes[0]
    starts = [points[n, len(groups)] - slope * many for n, slope in zip((1, 2), slopes, strict=True)]
    layers = architecture.get_text_config().num_hidden_layers
    fixed = starts[0] + (starts[1] - starts[0]) * (layers - 1)
    return Kept(max(0.0, fixed), max(0.0, slopes[0] - block), block, counted=True)


def shortened(architecture: PreTrainedConfig, layers: int) -> PreTrainedConfig:
    """The same architecture with so many blocks."""
    twin = copy.deepcopy(architecture)
    text = twin.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = list(text.layer_types[:layers])
    return twin


def _fed(group: Group) -> int:
    return group.num_fed


def _on_meta(architecture: PreTrainedConfig, adapter: AdapterConfig | None, kind: ModelHead) -> Any:
    with torch.device("meta"):
        model = kind.model(architecture)
    if adapter is None:
        return model
    # An adapter on disk is counted as a new one of its shape: its weights are not needed.
    return with_adapter(model, AdapterConfig(**{**vars(adapter), "path": None}))


def _share_in_use(text: Any, weight: Tensor) -> float:
    """The share of an expert tensor that one token passes through; 1 for other weights."""
    experts: int | None = next((n for key in _EXPERTS if (n := getattr(text, key, None))), None)
    if experts is None or weight.ndim != 3 or weight.shape[0] != experts:
        return 1.0
    return float(getattr(text, "num_experts_per_tok", experts)) / experts


_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


def _saved(
    architecture: PreTrainedConfig,
    groups: Sequence[Group],
    adapter: AdapterConfig | None,
    weights: torch.dtype,
    products: torch.dtype,
    kind: ModelHead,
) -> int:
    """Bytes saved for backward by one forward pass, each storage once, the weights themselves not."""
    model = _on_meta(architecture, adapter, kind)
    inner = causal_lm(model)
    inner.set_attn_implementation(NAME)
    model.train()
    packed = pack(groups, "cpu")
    with FakeTensorMode(allow_non_fake_inputs=True):
        _materialise(model, weights)
        own = {weight.untyped_storage()._cdata for weight in model.parameters()}
        kept: dict[int, tuple[int, Tensor]] = {}

        def look(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in own:
                kept[storage._cdata] = (storage.nbytes(), tensor)  # the tensor too, or its address is used again
            return tensor

        lower = products != weights and products == torch.bfloat16
        with (
            torch.autograd.graph.saved_tensors_hooks(look, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=lower),
        ):
            states = packed_states(model, packed)
        total = sum(size for size, _ in kept.values())
        del states
    return total


def _materialise(model: nn.Module, dtype: torch.dtype) -> None:
    """Give meta weights and buffers a device, inside fake mode: still no memory."""
    for module in model.modules():
        for name, weight in list(module._parameters.items()):
            if weight is not None:
                kind = torch.float32 if "lora_" in type(module).__name__.lower() else dtype
                fresh = torch.empty(weight.shape, dtype=kind, device="cpu")
                module._parameters[name] = nn.Parameter(fresh, requires_grad=weight.requires_grad)
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cpu")


def _dense(architecture: PreTrainedConfig, products: torch.dtype) -> Kept:
    """By formula: what a gated feed-forward block keeps, inputs and outputs of every product and norm."""
    text = architecture.get_text_config()
    inner = (
        getattr(text, "moe_intermediate_size", None) or getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    )
    active = inner * (getattr(text, "num_experts_per_tok", None) or 1)
    size = 4 if products == torch.float32 else 2
    return Kept(0.0, 4.0 * text.hidden_size, size * (14 * text.hidden_size + 5 * active), counted=False)
