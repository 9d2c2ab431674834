"""The models of a run, made ready in the only right order.

    weights -> adapter -> fingerprint -> device -> self-check -> precision -> checkpointing, compile -> shards

The fingerprint is taken while weights are whole; whether packed rows are right is asked before anything is wrapped.
"""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass
from typing import Any

import torch

from exptilt.policies.adapters import AdapterOff, adapter_fingerprint, with_adapter
from exptilt.policies.engine.balance import Balance, asks
from exptilt.policies.engine.forward import causal_lm, packable
from exptilt.policies.engine.inside import set_precision
from exptilt.policies.fingerprint import fingerprint
from exptilt.policies.models import load_model
from exptilt.policies.sharding import blocks_of, shard
from exptilt.processes.world import World, local_device
from exptilt.settings.model_settings import ModelConfig
from exptilt.settings.recipe import Recipe


@dataclass(frozen=True)
class Models:
    """The policy before step 1, and the reference where it must be held as a model."""

    policy: Any
    weights: str
    """Fingerprint of what the policy computes before step 1."""
    anchor: str
    """The same of the reference."""
    dtype: torch.dtype
    """Of the weights as they were loaded, in which they are saved."""
    reference: Any = None
    """Another model, a frozen copy, or the policy with its adapter off; None where log-probabilities are enough."""


def trained_models(recipe: Recipe, tokenizer: Any, world: World, *, hold_reference: bool, moving: bool) -> Models:
    """Everything that training runs on.

    Args:
        recipe: which weights, adapter, precision and sharding.
        tokenizer: of the model.
        world: the processes that share it.
        hold_reference: whether the objective or an evaluation needs the reference's distributions while training.
        moving: whether the reference will be changed, and so cannot share weights with anything.
    """
    base = load_model(recipe.model, tokenizer, seed=recipe.seed)
    dtype, precision = causal_lm(base).dtype, precision_for(recipe)
    if wants_float32(recipe, precision):
        base = base.float()  # type: ignore[no-untyped-call]
    weights, policy = fingerprint(base), base
    if recipe.adapter is not None:
        policy = with_adapter(base, recipe.adapter, seed=recipe.seed)
        if recipe.adapter.path is not None:
            parts = fingerprint(policy) + adapter_fingerprint(policy)
            weights = hashlib.sha256(parts.encode()).hexdigest()
    reference = _reference(recipe, policy, hold_reference, moving)
    anchor = weights if recipe.reference.model is None else fingerprint(reference)
    if reference is not None and not isinstance(reference, AdapterOff):
        reference = _ready(recipe, reference, precision, world, trained=False)
    return Models(_ready(recipe, policy, precision, world, trained=True), weights, anchor, dtype, reference)


def start_model(recipe: Recipe, tokenizer: Any) -> Any:
    """The weights a run starts from as one model on this process's device, to score and sample; nothing is trained."""
    model: Any = load_model(recipe.model, tokenizer, seed=recipe.seed)
    if recipe.adapter is not None and recipe.adapter.path is not None:
        model = with_adapter(model, recipe.adapter).eval()
    return model if recipe.model.quantize != "none" else model.to(local_device())


def other_model(recipe: Recipe, device: torch.device | None = None) -> Any:
    """The reference a recipe names, frozen."""
    settings = ModelConfig(path=recipe.reference.model, dtype=recipe.model.dtype)
    return load_model(settings).to(device or local_device()).requires_grad_(False)  # type: ignore[arg-type]


def precision_for(recipe: Recipe, on_gpu: bool | None = None) -> torch.dtype:
    """The arithmetic of forward and backward: what the recipe says, else what suits device (default: this one) and weights."""
    if recipe.train.precision != "auto":
        return torch.bfloat16 if recipe.train.precision == "bfloat16" else torch.float32
    if on_gpu is None:
        on_gpu = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if on_gpu or recipe.model.dtype == "bfloat16" else torch.float32


def in_words(recipe: Recipe, models: Models, world: World) -> str:
    """One line about what is trained where, for people."""
    model = models.policy
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    total = sum(parameter.numel() for parameter in model.parameters())
    kinds = {str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.requires_grad}
    products = str(precision_for(recipe)).removeprefix("torch.")
    share = "all" if trained == total else f"{trained / 1e6:.3g} M of"
    processes = "" if world.size == 1 else f", {world.size} processes ({_kind(recipe, world)})"
    note = "; bfloat16 weights without a float32 copy lose small updates" if "bfloat16" in kinds else ""
    note += _of_router(model)
    return (
        f"training {share} {total / 1e6:.3g} M weights in {' and '.join(sorted(kinds))}, products in {products}, "
        f"on {local_device().type}{processes}{note}"
    )


def _of_router(model: Any) -> str:
    balance = Balance.of(model)
    if balance is not None:
        return f"; the balance loss of the experts' router is added with coefficient {balance.coefficient:g}"
    if asks(model):
        return (
            "; the balance loss of the experts' router, which the model's config asks for, is not known and not added"
        )
    return ""


def _kind(recipe: Recipe, world: World) -> str:
    return "ddp" if recipe.parallel.kind == "auto" and world.size > 1 else recipe.parallel.kind


def wants_float32(recipe: Recipe, precision: torch.dtype) -> bool:
    """Weights that are trained get a float32 copy to keep small updates; float32 products need float32 weights."""
    if recipe.model.quantize != "none" or recipe.model.dtype == "bfloat16":
        return False
    return precision == torch.float32 or (recipe.adapter is None and recipe.model.dtype == "auto")


def _reference(recipe: Recipe, policy: Any, hold: bool, moving: bool) -> Any:
    """The reference as a model, before anything is wrapped; None where nobody needs it to be one."""
    if recipe.reference.model is not None:
        return other_model(recipe, torch.device("cpu"))
    if not (hold or moving):
        return None
    adapter = recipe.adapter
    if adapter is not None and adapter.path is None and not adapter.modules_to_save and not moving:
        return AdapterOff(policy)
    return copy.deepcopy(policy).eval().requires_grad_(False)


def _ready(recipe: Recipe, model: Any, precision: torch.dtype, world: World, *, trained: bool) -> Any:
    """On its device, checked, and wrapped as the recipe asks."""
    if recipe.model.quantize == "none":
        model = model.to(local_device())
    packable(model)
    set_precision(model, precision)
    inner = causal_lm(model)
    if trained and recipe.train.gradient_checkpointing:
        newer = getattr(inner, "activation_checkpointing_enable", None)  # its name since transformers 5.20
        (newer or inner.gradient_checkpointing_enable)({"use_reentrant": False})
    if recipe.train.compile:
        for block in blocks_of(model):
            block.compile(dynamic=True)
    return shard(model, recipe.parallel, precision) if _kind(recipe, world) == "fsdp" else model
