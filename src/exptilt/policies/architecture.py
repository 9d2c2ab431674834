"""What a model is by its configuration alone, before any weight is loaded."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from exptilt.errors import ModelError
from exptilt.policies.adapters import base_of, is_adapter
from exptilt.policies.models import architecture_of
from exptilt.settings.model_settings import ModelConfig


def architecture_for(settings: ModelConfig, tokenizer: Any) -> PreTrainedConfig:
    """The configuration of the model a recipe names.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    if settings.config is not None:
        return architecture_of(settings.config, tokenizer)
    if settings.path is None:
        raise ModelError("no model given: set model.path to a folder or hub id, or model.config")
    adapted = is_adapter(settings.path)
    path = base_of(settings.path) if adapted else settings.path
    try:
        found: PreTrainedConfig = AutoConfig.from_pretrained(path, revision=None if adapted else settings.revision)
    except Exception as error:  # transformers and the hub each raise their own kinds
        raise ModelError(f"{path}: cannot read a model's config.json ({str(error).partition(chr(10))[0]})") from error
    return found


def declared_context(settings: ModelConfig, tokenizer: Any) -> int | None:
    """The longest sequence the model takes; None where it states none, or where settings name no model.

    The same as `context_length` of the model once it is loaded.
    """
    try:
        limit = getattr(architecture_for(settings, tokenizer).get_text_config(), "max_position_embeddings", None)
    except ModelError:
        return None
    return limit if isinstance(limit, int) and limit > 0 else None
