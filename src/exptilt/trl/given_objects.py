"""Objects that a program gives to a trainer: what is taken, and what is refused by name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from exptilt.converters.trl_keywords import OBJECTS
from exptilt.errors import ConfigError
from exptilt.policies.engine.forward import causal_lm
from exptilt.policies.models import load_model, load_tokenizer
from exptilt.runs.run_models import HEADS
from exptilt.settings.model_settings import ModelConfig
from exptilt.trl.trainer_configs import TrainerConfig, plain

DATASET = "train_dataset"
_WITHOUT_REFERENCE = ("ORPO", "CPO", "Reward", "SFT")
_INIT = {"dtype": "dtype", "torch_dtype": "dtype", "revision": "revision", "trust_remote_code": "trust_remote_code"}
_INIT_WITHOUT_EFFECT = ("attn_implementation", "device_map", "use_cache", "low_cpu_mem_usage")
_TRL_METHODS = (
    *(
        "dpo_loss",
        "kto_loss",
        "cpo_loss",
        "odds_ratio_loss",
        "simpo_loss",
        "bco_loss",
        "_compute_loss",
        "store_metrics",
    ),
    *("get_batch_loss_metrics", "get_batch_logps", "get_batch_samples", "concatenated_forward", "concatenated_inputs"),
    *("tokenize_row", "process_row", "build_tokenized_answer", "compute_reference_log_probs", "compute_ref_log_probs"),
    *("null_ref_context", "generate_from_model_and_ref", "_prepare_dataset"),
)
"""Methods of TRL's trainers, of any version, that programs override."""


def refuse_objects(objects: Mapping[str, Any], kind: str) -> None:
    """Refuse objects without a counterpart; None, and a pair of None, are no objects.

    Raises:
        ConfigError: naming the first, with what to set.
    """
    for name, value in objects.items():
        if value is None or value == (None, None):
            continue
        outcome, says = OBJECTS[name]
        if outcome == "refused":
            raise ConfigError(f"{kind}Trainer: {name}: {says}")
        if name == "data_collator" and type(value).__module__.partition(".")[0] not in ("trl", "transformers"):
            raise ConfigError(
                f"{kind}Trainer: data_collator: a {type(value).__name__} would never be called; rows are packed by the engine, "
                "so change the rows themselves"
            )
        if name == "ref_model" and kind in _WITHOUT_REFERENCE:
            raise ConfigError(f"{kind}Trainer: ref_model: this objective has no reference; leave it out")
        if name == "formatting_func" and kind != "SFT":
            raise ConfigError(f"{kind}Trainer: formatting_func: is a keyword of SFTTrainer; map the rows")


def refuse_overrides(trainer: type, base: type) -> None:
    """Refuse a subclass that overrides a method which the loop of exptilt never calls.

    Raises:
        ConfigError: naming the class and the method.
    """
    for each in trainer.__mro__:
        if each.__module__.startswith("exptilt.trl."):
            return
        for name in vars(each):
            if not hasattr(base, name) and name in _methods_of_trainers():
                raise ConfigError(
                    f"{each.__name__}.{name} is overridden, and nothing here calls it; give a loss of your own to the "
                    "configuration: recipe={'loss': {'import': 'module:MyLoss'}} (docs/own_parts.md)"
                )


@cache
def _methods_of_trainers() -> frozenset[str]:
    from transformers import Trainer

    return frozenset({*(name for name in dir(Trainer) if not name.startswith("__")), *_TRL_METHODS})


def loaded_model(model: Any, objects: Mapping[str, Any], config: TrainerConfig) -> Any:
    """The model to train: the object, or the folder or hub id loaded as `from_pretrained` would.

    Raises:
        ConfigError: there is none, or it is to be loaded in a way that is not there.
        ModelError: it cannot be loaded.
    """
    if model is None and objects.get("model_init") is not None:
        model = objects["model_init"]()
    if model is None:
        raise ConfigError("model: is missing; give a model, a folder or a hub id")
    settings = dict(config.model_init_kwargs or {})
    quantization = objects.get("quantization_config") or settings.pop("quantization_config", None)
    if not (isinstance(model, str) or hasattr(model, "__fspath__")):
        if settings:
            raise ConfigError(f"model_init_kwargs: {', '.join(settings)}: the model is loaded already; leave them out")
        return model
    named = {"trust_remote_code": config.trust_remote_code} if config.trust_remote_code else {}
    for name, value in settings.items():
        if name in _INIT:
            named[_INIT[name]] = plain(value)
        elif name not in _INIT_WITHOUT_EFFECT:
            raise ConfigError(f"model_init_kwargs: {name}={value!r} has no counterpart; load the model and give it")
    if quantization is not None:
        named["quantize"] = _quantize(quantization)
    reads = "rewards" if config.kind == "Reward" else "logps"
    where = ModelConfig(path=str(model), dropout=None, **named)
    return load_model(where, load_tokenizer(where), seed=int(config.seed or 0), head=HEADS[reads])


def _quantize(settings: Any) -> str:
    if getattr(settings, "load_in_4bit", False) and getattr(settings, "bnb_4bit_quant_type", "") == "nf4":
        return "nf4"
    raise ConfigError("quantization_config: 4 bits of type nf4 are there; load the model in another way and give it")


def loaded_tokenizer(tokenizer: Any, model: Any) -> Any:
    """The tokenizer: the object, or that of the folder or hub id that the model was loaded from."""
    if tokenizer is not None:
        return tokenizer
    source = getattr(getattr(model, "config", None), "_name_or_path", "") or getattr(model, "name_or_path", "")
    if not source:
        raise ConfigError("processing_class: is missing; a model that is no folder's needs its tokenizer beside it")
    return load_tokenizer(ModelConfig(tokenizer=str(source)))


@contextmanager
def left_in_its_form(model: Any) -> Iterator[None]:
    """Give a model its own attention and dtypes back after training.

    The engine replaces the attention by one that computes the same for packed rows, too, and trains float32 copies of weights in
    16 bits.
    """
    inner = causal_lm(model)
    attention = inner.config._attn_implementation
    weights = [(weight, weight.dtype) for weight in model.parameters()]
    buffers = [
        (module, name, buffer.dtype)
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        yield
    finally:
        inner.set_attn_implementation(attention)
        for weight, dtype in weights:
            if weight.dtype != dtype:
                weight.data = weight.data.to(dtype)
        for module, name, dtype in buffers:
            buffer = getattr(module, name, None)
            if buffer is not None and buffer.dtype != dtype:
                setattr(module, name, buffer.to(dtype))


@dataclass(frozen=True)
class Processes:
    """The processes that torchrun started, as accelerate names them."""

    process_index: int = field(default_factory=lambda: int(os.environ.get("RANK", "0")))
    local_process_index: int = field(default_factory=lambda: int(os.environ.get("LOCAL_RANK", "0")))
    num_processes: int = field(default_factory=lambda: int(os.environ.get("WORLD_SIZE", "1")))

    @property
    def is_main_process(self) -> bool:
        """Whether this is the first."""
        return self.process_index == 0

    @property
    def is_local_main_process(self) -> bool:
        """Whether this is the first on its machine."""
        return self.local_process_index == 0

    def wait_for_everyone(self) -> None:
        """Nothing: outside of training processes do not depend on each other."""

    def unwrap_model(self, model: Any) -> Any:
        """The model itself: nothing is wrapped."""
        return model
