"""The weights in an adapter's file against those of the model it was put on: peft ignores what does not fit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from safetensors import safe_open

from exptilt.errors import ModelError
from exptilt.wording import counted

_PEFT_PARTS = re.compile(r"\.(?:base_layer|original_module|modules_to_save(?:\.[^.]+(?=\.))?)(?=\.)")
"""Parts of names that peft puts between a layer's name and its weights."""


def require_same_weights(model: Any, folder: Path, name: str) -> None:
    """Refuse an adapter whose file lacks weights of its layers, or has weights for layers that are not there.

    Args:
        model: a `peft.PeftModel` that loaded it.
        folder: of the adapter.
        name: of the adapter in peft.

    Raises:
        ModelError: the weights differ; the message names the first.
    """
    stored, known = _stored(folder), _known(model, name)
    if not stored or model.peft_config[name].is_prompt_learning:
        return
    base = names_of_base(model)
    missing = sorted(key for key in known - stored if bare_name(key) not in base)
    unread = sorted(key for key in stored - known if "lora_" in key)
    if unread or missing:
        what = f"lacks {missing[0]}" if missing else f"holds {unread[0]}, which the base has no place for"
        raise ModelError(
            f"{folder}: is not an adapter of {model.get_base_model().name_or_path}: it {what} "
            f"({len(missing) + len(unread)} such weights)"
        )


def require_no_head(model: Any, folder: Path, name: str, *, left: tuple[str, ...], advice: str) -> None:
    """Refuse an adapter that brings weights the model has no place for: the head of another task.

    Args:
        model: a `peft.PeftModel` that loaded it.
        folder: of the adapter.
        name: of the adapter in peft.
        left: beginnings of names of weights that may stay unread.
        advice: the end of the message.

    Raises:
        ModelError: the message names the first such weight.
    """
    settings, base = model.peft_config[name], names_of_base(model)
    unread = {key: bare_name(key) for key in _stored(folder) - _known(model, name)}
    heads = sorted(key for key, bare in unread.items() if bare not in base and not bare.startswith(left))
    if heads and not settings.is_prompt_learning:
        task = str(getattr(settings.task_type, "value", settings.task_type))
        raise ModelError(
            f"{folder}: is an adapter for another kind of model (task {task}); nobody reads {heads[0]} "
            f"({counted(len(heads), 'such weight')}). Take the adapter of a model of the right kind{advice}"
        )


def _stored(folder: Path) -> set[str]:
    """Names of the weights in an adapter's file."""
    path = folder / "adapter_model.safetensors"
    if not path.is_file():
        return set()
    with safe_open(path, framework="pt") as file:
        return set(file.keys())


def _known(model: Any, name: str) -> set[str]:
    """Names that peft would save, and so reads."""
    from peft import get_peft_model_state_dict

    return set(get_peft_model_state_dict(model, adapter_name=name))


def names_of_base(model: Any) -> dict[str, Any]:
    """The base's own weights by name, which an adapter may replace: embeddings that grew, layers trained whole."""
    return {
        _PEFT_PARTS.sub("", name): weight
        for name, weight in model.get_base_model().named_parameters(remove_duplicate=False)
    }


def bare_name(key: str) -> str:
    """The name that a weight in an adapter's file has in the base, if it is one of the base's own."""
    return _PEFT_PARTS.sub("", key.removeprefix("base_model.model."))
