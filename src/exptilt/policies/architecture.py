"""The architecture of a model, read from its configuration before any weight is loaded."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from exptilt.errors import ModelError
from exptilt.in_memory import from_memory, is_in_memory
from exptilt.policies.adapters import base_of, find_adapter, revision_of
from exptilt.policies.engine.forward import causal_lm, context_of
from exptilt.policies.models import architecture_of
from exptilt.settings.model_settings import ModelConfig
from exptilt.wording import in_one_line


def architecture_for(settings: ModelConfig, tokenizer: Any) -> PreTrainedConfig:
    """Read the configuration of the model that a recipe names.

    Raises:
        ModelError: the model has no configuration, or it cannot be read.
    """
    if settings.config is not None:
        return architecture_of(settings.config, tokenizer)
    if settings.path is None:
        raise ModelError("no model given: set model.path to a folder or hub id, or model.config")
    if is_in_memory(settings.path):
        held: PreTrainedConfig = causal_lm(from_memory(settings.path).content).config
        return held
    adapter = find_adapter(settings.path, settings.revision)
    path = settings.path if adapter is None else base_of(adapter)
    revision = settings.revision if adapter is None else revision_of(adapter)
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            path, revision=revision, trust_remote_code=settings.trust_remote_code
        )
    except Exception as error:  # transformers and the hub each raise their own kinds
        raise ModelError(f"{path}: cannot read a model's config.json ({in_one_line(error)})") from error
    return config


def declared_context(settings: ModelConfig, tokenizer: Any) -> int | None:
    """The longest sequence a model takes; None if its configuration gives no limit or the settings name no model.

    The value equals `context_length` of the loaded model.
    """
    try:
        return context_of(architecture_for(settings, tokenizer))
    except ModelError:
        return None
