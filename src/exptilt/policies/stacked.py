"""A new adapter beside a frozen one: training from a base and an existing adapter, whatever the base's dtype.

    start    frozen; base + start is where the run begins, and the reference
    default  new, trained

Both are saved as one adapter on the base, side by side in one product, which is exact for LoRA:

    W + s1 B1 A1 + s2 B2 A2  =  W + [s1 B1, s2 B2] [A1; A2]

so no weights of the base are changed, rounded or written, and peft, vLLM and TRL load the result as any other adapter.
Where one of both is no plain LoRA this does not hold (`why_apart`); the start is then merged first (`start.write_merged_base`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from exptilt.errors import ModelError

START, NEW = "start", "default"
"""Names of the two adapters in peft."""
_CARRIED = "exptilt_carried"
_SETTINGS_OF_SUMS = {
    *(
        "task_type",
        "peft_type",
        "auto_mapping",
        "peft_version",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
    ),
    *(
        "r",
        "lora_alpha",
        "use_rslora",
        "rank_pattern",
        "alpha_pattern",
        "lora_dropout",
        "fan_in_fan_out",
        "modules_to_save",
    ),
    *(
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "init_lora_weights",
        "runtime_config",
    ),
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "qalora_group_size"),  # of what others switch on
}
"""Settings of LoRA under which an adapter is a product that is added to the weights of its base."""
_INITS_OF_SUMS = (True, False, "gaussian")
"""Beginnings of the product that leave the base as it is."""
_WORDS = {
    "use_dora": "DoRA's magnitudes",
    "bias": "biases of its own",
    "lora_bias": "biases of its own",
    "trainable_token_indices": "single rows of the embeddings",
}
_A, _B = ("lora_A", "lora_embedding_A"), ("lora_B", "lora_embedding_B")


def is_stacked(model: Any) -> bool:
    """Tell whether a model has a new adapter beside a frozen one."""
    return {START, NEW} <= set(getattr(model, "peft_config", ()))


def stack(model: Any, settings: Any) -> Any:
    """Freeze the adapter that a model was loaded with, and put a new adapter beside it.

    Args:
        model: a PEFT model whose one adapter is called `START`; changed in place.
        settings: a `peft.LoraConfig` of the new one.

    Raises:
        ModelError: one of both is no plain LoRA, so that no single adapter could hold them.
    """
    old = model.peft_config[START]
    why = why_apart(old, dora=settings.use_dora)
    if why:
        raise ModelError(
            f"a new adapter cannot be put beside the one it starts from: {why}. Go on with that adapter "
            "(adapter.path), merge it into its base first, or leave out `adapter`, which merges it and trains all weights"
        )
    _carry(model)
    model.add_adapter(NEW, settings)
    model.set_adapter(NEW)
    model.base_model.set_adapter([START, NEW])
    _freeze_start(model)
    return model


def why_apart(start: Any, *, dora: bool = False) -> str:
    """Why no single adapter could hold an adapter and a new one; empty if one can.

    Only settings of LoRA that are known to be a product beside unchanged weights pass: PiSSA and OLoRA, for example, change
    the base when they are loaded.

    Args:
        start: `peft.PeftConfig` of the adapter in `model.path`.
        dora: whether the new one is DoRA, which is no sum.
    """
    if dora:
        return "adapter.dora needs the weights themselves"
    kind = str(getattr(start.peft_type, "value", start.peft_type))
    if kind != "LORA":
        return f"the adapter in model.path is of the kind {kind}"
    usual = type(start)()
    odd = [
        field.name
        for field in fields(start)
        if field.name not in _SETTINGS_OF_SUMS and getattr(start, field.name) != getattr(usual, field.name)
    ]
    if start.init_lora_weights not in _INITS_OF_SUMS:
        odd.append(f"init_lora_weights={start.init_lora_weights}")
    return f"the adapter in model.path has {_WORDS.get(odd[0], odd[0])}" if odd else ""


def _carry(model: Any) -> None:
    """Move layers that the first adapter replaced whole (`modules_to_save`) into the base, and save them with the adapter."""
    from peft.utils import ModulesToSaveWrapper

    inner, carried = model.get_base_model(), []
    for name, module in list(inner.named_modules()):
        if not isinstance(module, ModulesToSaveWrapper):
            continue
        parent = inner.get_submodule(name.rpartition(".")[0]) if "." in name else inner
        setattr(parent, name.rpartition(".")[2], module.modules_to_save[START].requires_grad_(False))
        carried.append(name)
    model.peft_config[START].modules_to_save = None
    mark_ties(inner)
    object.__setattr__(model, _CARRIED, tuple(carried))


def mark_ties(model: Any) -> None:
    """Write into a model's config whether embeddings and head are one matrix, which saving and loading follow."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or not getattr(model.config, "tie_word_embeddings", False):
        return
    if head.weight is embedding.weight:
        return
    model.config.tie_word_embeddings = False
    model.config.get_text_config().tie_word_embeddings = False
    model.all_tied_weights_keys = {}


def _freeze_start(model: Any) -> None:
    for name, parameter in model.named_parameters():
        if f".{START}." in name:
            parameter.requires_grad_(False)


@contextmanager
def only_start(model: Any) -> Iterator[None]:
    """Switch the new adapter off and the frozen one on for a block."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    replaced = [module for module in model.modules() if NEW in _dict_of(module, "modules_to_save")]
    model.base_model.set_adapter([START])
    for module in replaced:
        module.enable_adapters(False)
    try:
        yield
    finally:
        model.base_model.set_adapter([START, NEW])
        for module in replaced:
            module.enable_adapters(True)
            module.set_adapter(NEW)
        model.requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)


def _dict_of(module: Any, name: str) -> Any:
    """The entries by adapter of a peft layer; empty for other layers, which may have attributes of these names."""
    entries = getattr(module, name, None)
    return entries if isinstance(entries, dict | torch.nn.ModuleDict) else {}


def save_stacked(model: Any, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
    """Save both adapters as a single adapter.

    Args:
        model: made by `stack`.
        folder: exists.
        state: all weights, where the model's own are sharded.
    """
    from peft import get_peft_model_state_dict

    first, second = (
        get_peft_model_state_dict(
            model, state_dict=None if state is None else dict(state), adapter_name=name, save_embedding_layers=False
        )
        for name in (START, NEW)
    )
    old, new = (model.peft_config[name] for name in (START, NEW))
    weights = {key: value for key, value in second.items() if "lora_" not in key}
    inner = model.get_base_model()
    whole = list(new.modules_to_save or ())
    for name in getattr(model, _CARRIED, ()):
        short = name.rpartition(".")[2]
        if short not in whole:
            weights |= {f"base_model.model.{name}.{key}": value for key, value in _weights_of(inner, name, state)}
    rank = _rank(first) + _rank(second)
    names = sorted({_module(key) for key in [*first, *second] if "lora_" in key})
    scales = [_scales(model, name) for name in (START, NEW)]
    for module in names:
        weights |= _side_by_side(module, (first, second), scales, rank)
    settings = type(new)(
        task_type=new.task_type,
        r=rank,
        lora_alpha=rank,
        lora_dropout=new.lora_dropout,
        target_modules=_targets(old, new, names),
        modules_to_save=sorted({*whole, *(name.rpartition(".")[2] for name in getattr(model, _CARRIED, ()))}) or None,
        fan_in_fan_out=new.fan_in_fan_out,
        base_model_name_or_path=new.base_model_name_or_path,
        revision=new.revision,
        inference_mode=True,
    )
    settings.save_pretrained(str(folder))
    plain = {key: value.detach().to("cpu").contiguous().clone() for key, value in weights.items()}
    save_file(plain, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _weights_of(inner: Any, name: str, state: Mapping[str, Tensor] | None) -> Iterator[tuple[str, Tensor]]:
    prefix = f"base_model.model.{name}."
    if state is not None:
        yield from ((key.removeprefix(prefix), value) for key, value in state.items() if key.startswith(prefix))
        return
    yield from inner.get_submodule(name).state_dict().items()


def _module(key: str) -> str:
    return key.partition(".lora_")[0]


def _rank(state: Mapping[str, Tensor]) -> int:
    return max((len(value) for key, value in state.items() if any(f".{name}" in key for name in _A)), default=0)


def _scales(model: Any, adapter: str) -> dict[str, float]:
    """The factor of each layer's product."""
    scales = {}
    for name, module in model.named_modules():
        scaling = _dict_of(module, "scaling")
        if adapter in scaling:
            scales[name] = float(scaling[adapter])
    return scales


def _side_by_side(
    module: str, states: tuple[Mapping[str, Tensor], Mapping[str, Tensor]], scales: list[dict[str, float]], rank: int
) -> dict[str, Tensor]:
    """[A1; A2] and [s1 B1, s2 B2] of a layer, filled up with zeros to one rank for all layers."""
    tops, sides = [], []
    keys = ("", "")
    for state, scale in zip(states, scales, strict=True):
        for name_a, name_b in zip(_A, _B, strict=True):
            key_a, key_b = (
                next((key for key in state if key.startswith(f"{module}.{name}")), "") for name in (name_a, name_b)
            )
            if key_a and key_b:
                keys = (key_a, key_b)
                tops.append(state[key_a].float())
                sides.append(state[key_b].float() * scale[module])
    top, side = torch.cat(tops), torch.cat(sides, dim=1)
    missing = rank - len(top)
    return {
        keys[0]: torch.cat([top, top.new_zeros(missing, top.shape[1])]),
        keys[1]: torch.cat([side, side.new_zeros(len(side), missing)], dim=1),
    }


def _targets(old: Any, new: Any, names: list[str]) -> list[str]:
    """The layers by short names if those mean exactly these layers, else by full names."""
    plain = all(
        isinstance(config.target_modules, set | list) and config.layers_to_transform is None for config in (old, new)
    )
    if plain and not new.exclude_modules and not old.exclude_modules:
        return sorted({*old.target_modules, *new.target_modules})
    return [name.removeprefix("base_model.model.") for name in names]
