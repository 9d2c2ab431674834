"""Models, adapters, batches and processes of another tool's configuration: keys that mean something only together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from exptilt.converters.draft import Draft
from exptilt.wording import counted

_MODELS = ("model_name_or_path", "base_model", "model_name", "pretrain")
_REFERENCES = ("ref_model", "ref_model_name_or_path", "ref_model_path")
_ADAPTER = {"r": "rank", "lora_r": "rank", "lora_rank": "rank", "lora_alpha": "alpha", "lora_dropout": "dropout"}
_TARGETS = ("target_modules", "lora_target_modules", "lora_target", "lora_target_linear")
_SIZES = ("per_device_train_batch_size", "micro_batch_size", "train_micro_batch_size_per_gpu", "micro_train_batch_size")


def convert_weights(draft: Draft) -> None:
    """Set the keys of `model`, `reference` and `adapter`."""
    for keys, ours in ((_MODELS, "model.path"), (_REFERENCES, "reference.model")):
        stated = [key for key in keys if draft.has(key)]
        if stated:
            draft.use(ours, draft.get(*stated), *stated)
    _moving_reference(draft)
    _adapter(draft)


def _moving_reference(draft: Draft) -> None:
    """TR-DPO's reference, whose numbers count only where it is switched on."""
    numbers = {"ref_model_sync_steps": "reference.move_every", "ref_model_mixup_alpha": "reference.mix"}
    keys = [key for key in numbers if key in draft.source]
    if not draft.get("sync_ref_model"):
        draft.as_default("the reference stays where it is, here as well", "sync_ref_model")
        draft.no_effect("the reference stays where it is", *keys)
        return
    for key in (key for key in keys if draft.has(key)):
        value = draft.number(key)
        draft.use(numbers[key], int(value) if key.endswith("steps") else value, key)
    draft.use("reference.move_every", int(draft.number("ref_model_sync_steps", default=512)), "sync_ref_model")


def _adapter(draft: Draft) -> None:
    keys = [key for key in (*_ADAPTER, *_TARGETS) if key in draft.source]
    if not _trains_adapter(draft):
        draft.no_effect("no adapter is trained there", *keys)
        return
    for theirs, ours in _ADAPTER.items():
        if draft.has(theirs):
            value = draft.number(theirs)
            draft.use(f"adapter.{ours}", int(value) if ours == "rank" else value, theirs)
    rank = draft.settings.setdefault("adapter.rank", 8)
    for key in (key for key in ("use_rslora", "peft_use_rslora") if draft.get(key)):
        alpha = draft.number("lora_alpha", default=8) * math.sqrt(rank)
        draft.use("adapter.alpha", alpha, key, because="there updates are scaled by alpha over the root of the rank")
    for key in (key for key in _TARGETS if key in draft.source):
        _targets(draft, key, draft.source[key])


_SWITCHES: Mapping[str, tuple[Any, ...]] = {
    "use_peft": (True,),
    "finetuning_type": ("lora",),
    "adapter": ("lora", "qlora"),
}
"""Keys that say whether an adapter is trained, with the values that say so."""


def _trains_adapter(draft: Draft) -> bool:
    """Whether the source trains an adapter, by the switch of its tool; without one, whether it gives a rank."""
    for key, on_values in _SWITCHES.items():
        if key not in draft.source:
            continue
        value = draft.source[key]
        on = value in on_values
        if on:
            draft.use("adapter.rank", draft.get("r", "lora_r", "lora_rank", default=8), key)
            if value == "qlora":
                draft.use("model.quantize", "nf4", key)
        elif value in ("full", False, None, ""):
            draft.as_default("all weights are trained here as well", key)
        else:
            draft.refuse(f"{value!r} has no counterpart; a low-rank adapter or all weights are trained", key)
        return on
    return draft.has("r", "lora_r", "lora_rank")


def _targets(draft: Draft, key: str, value: Any) -> None:
    if key == "lora_target_linear":
        if value:
            draft.use("adapter.targets", ["all-linear"], key)
        else:
            draft.as_default("the targets say it", key)
        return
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else list(value or [])
    if not names:
        draft.as_default("set adapter.targets where the default, all-linear, is too much", key)
    else:
        draft.use("adapter.targets", ["all-linear"] if names in (["all"], ["all-linear"]) else names, key)


def convert_batches(draft: Draft, processes: int | None) -> None:
    """Set `batch.size`: rows of a step are the product of three numbers there."""
    keys = [key for key in (*_SIZES, "gradient_accumulation_steps") if draft.has(key)]
    whole = draft.get("train_batch_size")
    if isinstance(whole, int):
        draft.use("batch.size", whole, "train_batch_size")
        draft.no_effect("batch.size says it", *keys)
        return
    draft.no_effect("batch.size is their product", "train_batch_size")
    numbers = {key: draft.get(key) for key in keys}
    if any(value == "auto" for value in numbers.values()) or not keys:
        draft.no_effect("auto: the other configuration says it", *(key for key in keys if numbers[key] == "auto"))
        keys = [key for key in keys if numbers[key] != "auto"]
    if not keys:
        return
    size, accumulation = draft.get(*_SIZES, default=1), draft.get("gradient_accumulation_steps", default=1)
    size, accumulation = (value if isinstance(value, int) else 1 for value in (size, accumulation))
    count = processes or draft.get("num_processes") or 1
    arithmetic = f"{counted(size, 'row')} x {accumulation} accumulated x {counted(int(count), 'process', 'processes')}"
    draft.use("batch.size", size * accumulation * int(count), *keys, because=arithmetic)
    if processes is None and not draft.has("num_processes"):
        draft.remarks.append(f"batch.size = {arithmetic}: with more processes there, give --processes")


def convert_processes(draft: Draft) -> None:
    """Set `parallel` from accelerate's and DeepSpeed's keys."""
    kind = str(draft.get("distributed_type", default="")).upper()
    zero = draft.get("zero_optimization")
    stage = zero.get("stage") if isinstance(zero, dict) else (draft.get("deepspeed_config") or {}).get("zero_stage")
    sharded = (
        kind == "FSDP"
        or stage == 3
        or bool(draft.get("fsdp"))
        or any(mark in str(draft.get("deepspeed")) for mark in ("zero3", "z3"))
    )
    keys = [
        key
        for key in ("distributed_type", "zero_optimization", "deepspeed_config", "fsdp", "fsdp_config", "deepspeed")
        if key in draft.source
    ]
    if sharded:
        draft.use("parallel.kind", "fsdp", *keys, because="weights, gradients and states are sharded")
    elif draft.has(*keys):
        draft.use("parallel.kind", "auto", *keys, because="each process holds the model: ddp")
    offloads = "offload" in str(zero) and '"none"' not in str(zero) and "cpu" in str(zero)
    if sharded and offloads:
        draft.use("parallel.cpu_offload", True, "zero_optimization")
    launched = (
        "num_processes",
        "num_machines",
        "machine_rank",
        "main_process_ip",
        "main_process_port",
        "main_training_function",
    )
    more = ("rdzv_backend", "same_network", "tpu_env", "tpu_use_cluster", "tpu_use_sudo", "downcast_bf16")
    draft.no_effect("torchrun says it", *(key for key in (*launched, *more) if key not in draft.fates))
    precision = draft.get("mixed_precision")
    if precision in ("bf16", "no"):
        draft.use("train.precision", "bfloat16" if precision == "bf16" else "float32", "mixed_precision")
    for key in ("bf16", "fp16"):
        inner = draft.get(key)
        if isinstance(inner, dict):
            on = inner.get("enabled") in (True, "auto")
            if key == "bf16" and inner.get("enabled") is True:
                draft.use("train.precision", "bfloat16", key)
            elif on and inner.get("enabled") is True:
                draft.refuse("half precision with loss scaling is not there; use train.precision=bfloat16", key)
            else:
                draft.as_default("off, or said elsewhere", key)
    _deepspeed_optimizer(draft)


def _deepspeed_optimizer(draft: Draft) -> None:
    optimizer = draft.get("optimizer")
    if isinstance(optimizer, dict):
        params = optimizer.get("params", {})
        names = {"lr": "optim.learning_rate", "weight_decay": "optim.weight_decay", "eps": "optim.eps"}
        for theirs, ours in names.items():
            if isinstance(params.get(theirs), int | float):
                draft.use(ours, float(params[theirs]), "optimizer")
        draft.as_default("adamw here as well; the training configuration says the rest", "optimizer") if (
            "optimizer" not in draft.fates
        ) else None
    scheduler = draft.get("scheduler")
    if isinstance(scheduler, dict):
        draft.no_effect(
            "the training configuration says the schedule; set optim.schedule and optim.warmup_ratio", "scheduler"
        )
