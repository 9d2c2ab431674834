"""The gate for incoming models: tells the kind of a model from its files before a weight is read, and checks it after.

plain        a causal language model
adapter      a PEFT adapter, on a base that it names
quantised    a causal language model whose weights are in 4 or 8 bits already
refused      no causal language model; a body with a head for another task; code of its own that nobody has allowed
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transformers import AutoConfig, PreTrainedConfig

from exptilt.errors import ModelError
from exptilt.policies.adapters import base_of, find_adapter, revision_of
from exptilt.policies.model_files import check_folder, pointer_in
from exptilt.policies.model_heads import LANGUAGE_HEAD, ModelHead
from exptilt.settings.model_settings import ModelConfig
from exptilt.wording import counted, in_one_line

_SCORES = ("score.", "v_head.", "value_head.", "reward_head.", "regression_head.", "rm_head.")
"""Heads of reward and value models."""
_BUFFERS = (".masked_bias", "rotary_emb.inv_freq")
"""Constants that older versions of transformers saved beside the weights."""
_TASKS = ("classifier.", "qa_outputs.", "pooler.", "classification_head.", "pre_classifier.")


@dataclass(frozen=True)
class Incoming:
    """The kind of a model, as its files tell it."""

    path: str
    """Folder or hub id of the model, of the base where it is an adapter."""
    revision: str | None
    kind: Literal["plain", "adapter", "quantised"]
    adapter: str | None = None
    """The adapter's folder."""
    method: str = ""
    """The quantisation method in transformers' words; empty for weights that are not quantised."""
    config: PreTrainedConfig | None = None
    """The model's configuration; None for an adapter, whose base passes the gate by itself."""


def identify(settings: ModelConfig, head: ModelHead = LANGUAGE_HEAD) -> Incoming:
    """Tell the kind of model that `model.path` names, which is to be loaded with this head.

    Raises:
        ModelError: the folder is missing, holds no model or one without such a head, or its code is not allowed.
    """
    path = str(settings.path)
    adapter = find_adapter(path, settings.revision)
    if adapter is not None:
        base = base_of(adapter)
        if find_adapter(base, revision_of(adapter)) is not None:
            raise ModelError(f"{path}: is an adapter on another adapter ({base}); merge that one into its base first")
        return Incoming(base, revision_of(adapter), "adapter", str(adapter))
    check_folder(path, "model", ("config.json",))
    config = head.config(path, read_config(settings, path, head.what))
    method = _method(config)
    return Incoming(path, settings.revision, "quantised" if method else "plain", method=method, config=config)


def read_config(settings: ModelConfig, path: str, what: str = LANGUAGE_HEAD.what) -> PreTrainedConfig:
    """Read the configuration of a model.

    Raises:
        ModelError: it cannot be read, or comes with code that is not allowed.
    """
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            path, revision=settings.revision, trust_remote_code=settings.trust_remote_code
        )
    except Exception as error:  # transformers and the hub each raise their own kinds
        raise refused(path, what, error) from error
    return config


def refused(path: str, what: str, error: Exception) -> ModelError:
    """Turn an error of transformers, safetensors or the hub into an error for a person."""
    if "trust_remote_code" in str(error):
        return ModelError(
            f"{path}: {what.removeprefix('a ')} that needs code of its own folder to run; read that code, and if you trust "
            "it set model.trust_remote_code=true"
        )
    pointer = pointer_in(Path(path).expanduser())
    if pointer is not None:
        return ModelError(f"{pointer}: this is a git-lfs pointer, not the weights; run `git lfs pull` in {path}")
    return ModelError(f"{path}: cannot load {what} ({in_one_line(error)})")


def require_all_read(
    path: str, config: PreTrainedConfig, info: Mapping[str, Any], head: ModelHead, *, ignore_unexpected: bool
) -> None:
    """Require that every weight of the folder was read, and that the folder had every weight of the model.

    Weights that the model's class lists as ignorable are not in `info`.

    Args:
        path: the folder, for messages.
        config: configuration of the model.
        info: `output_loading_info` of transformers.
        head: names weights that may be missing, and those that may be unread.
        ignore_unexpected: the recipe's key.

    Raises:
        ModelError: weights are missing or unread; the message names them.
    """
    made = () if head.wrote(config) else head.made
    missing = sorted(name for name in info["missing_keys"] if name not in made)
    unread = sorted(name for name in info["unexpected_keys"] if not name.endswith(_BUFFERS))
    unread = [name for name in unread if not name.startswith(head.left)] if head.left else unread
    misfits = sorted(info.get("mismatched_keys") or ())
    if misfits:
        name, stored, expected = misfits[0]
        raise ModelError(
            f"{path}: {len(misfits)} weights do not fit config.json (first: {name} is {tuple(stored)} in the file, "
            f"{tuple(expected)} in the model); weights and config.json are of different models"
        )
    if unread and not ignore_unexpected:
        raise ModelError(
            f"{path}: {_what_it_is(config, unread, head)}; nobody reads {_some(unread)}. Take the language model it was made "
            "from, or set model.ignore_unexpected=true to train it without them"
        )
    if missing:
        also = f" ({_what_it_is(config, unread, head)})" if unread else ""
        raise ModelError(
            f"{path}: the folder lacks {counted(len(missing), 'weight')}, which would start random (first: {missing[0]}); "
            f"it is not a complete {head.what.removeprefix('a ')}{also}"
        )


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more weights"


def _what_it_is(config: PreTrainedConfig, unread: Sequence[str], head: ModelHead) -> str:
    saved_as = next(iter(getattr(config, "architectures", None) or ()), "")
    expected = head.classes.get(config.model_type, "")
    named = f", saved as {saved_as}" if saved_as and saved_as not in expected and "CausalLM" not in saved_as else ""
    is_other = named and not saved_as.endswith("SequenceClassification")
    if not is_other and any(name.startswith(_SCORES) or ".v_head." in name for name in unread):
        return f"this is a reward model (it scores text{named})"
    if named or any(name.startswith(_TASKS) for name in unread):
        return f"this is a model with a head for another task{named}"
    return "the folder holds weights that this architecture does not have"


def _method(config: PreTrainedConfig) -> str:
    quantization = getattr(config, "quantization_config", None)
    if not quantization:
        return ""
    method = (
        quantization.get("quant_method")
        if isinstance(quantization, Mapping)
        else getattr(quantization, "quant_method", None)
    )
    return str(getattr(method, "value", method) or "quantised")
