"""A LoraConfig of peft as keys of `adapter`."""

from __future__ import annotations

import dataclasses
from typing import Any

from exptilt.errors import ConfigError
from exptilt.trl.trainer_configs import plain

_TAKEN = ("r", "lora_alpha", "lora_dropout", "modules_to_save", "use_dora", "use_rslora")
_NO_EFFECT = ("task_type", "fan_in_fan_out", "inference_mode", "base_model_name_or_path", "revision", "peft_type",
              "peft_version", "auto_mapping", "runtime_config")  # fmt: skip
"""What the model, its objective and peft say by themselves."""
_TARGETS = "target_modules"


def lora_keys(config: Any, model: Any) -> dict[str, Any]:
    """The keywords of an adapter, as `exptilt convert` reads them.

    Args:
        config: a `peft.LoraConfig`.
        model: the model it is for: where no layers are named, peft chooses them by its type.

    Raises:
        ConfigError: another kind of adapter, or a setting without a counterpart.
    """
    kind = str(plain(getattr(config, "peft_type", None)))
    if kind != "LORA" or not dataclasses.is_dataclass(config):
        raise ConfigError(f"peft_config: a {type(config).__name__} is no LoraConfig; LoRA, rsLoRA and DoRA are trained")
    keys = {name: getattr(config, name) for name in _TAKEN if getattr(config, name, None) not in (None, [], False)}
    for field in dataclasses.fields(config):
        if field.name in (*_TAKEN, *_NO_EFFECT, _TARGETS) or not field.init:
            continue
        value, default = getattr(config, field.name), _default(field)
        if value not in (default, None) and value != {} and value != []:
            raise ConfigError(f"peft_config: {field.name}={plain(value)!r} has no counterpart; leave it out")
    return {**keys, _TARGETS: _targets(config, model)}


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _targets(config: Any, model: Any) -> list[str]:
    named = getattr(config, _TARGETS)
    if isinstance(named, str):
        if named == "all-linear":
            return [named]
        raise ConfigError(f"peft_config: target_modules={named!r} is a pattern; give a list of names, or 'all-linear'")
    if named:
        return sorted(named)
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as usual

    family = str(model.config.model_type)
    if family not in usual:
        raise ConfigError(f"peft_config: peft knows no usual layers of {family}; set target_modules, or 'all-linear'")
    return list(usual[family])
