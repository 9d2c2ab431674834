"""Saving of a model folder, whole or not at all, from one process or from shards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.tensor import DTensor
from transformers import PreTrainedTokenizerBase

from exptilt.disk import reason, require_space, write_folder
from exptilt.errors import DiskError, ModelError
from exptilt.policies.adapters import has_adapter
from exptilt.policies.engine.forward import causal_lm
from exptilt.policies.side_files import copy_side_files
from exptilt.policies.stacked import is_stacked, save_stacked
from exptilt.processes.world import World

_OF_A_MODEL = (
    *("*.safetensors", "*.bin", "*.index.json", "adapter_*", "config.json", "generation_config.json", "tokenizer*"),
    *("special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "chat_template.*", "*.model"),
)
"""Names of the files that transformers and peft save."""


def save_model(
    model: Any,
    tokenizer: PreTrainedTokenizerBase | None,
    folder: str | Path,
    *,
    dtype: torch.dtype | None = None,
    world: World | None = None,
) -> None:
    """Write a folder that plain transformers (or peft, for an adapter) loads; whole, or not at all.

    Everything is written to a temporary folder beside it, which then takes the name. The model in an existing folder is
    replaced whole; what people put beside it stays.

    Args:
        model: plain, sharded, or with an adapter, which alone is saved.
        tokenizer: saved beside it.
        folder: where.
        dtype: dtype of the saved weights; default, their own. The dtype of an adapter is always its own.
        world: the processes that hold the model; all of them must call this, the first one writes.

    Raises:
        ModelError: if the folder cannot be written, or the disk has no room for it.
    """
    world, weights = world or World.alone(), _whole(model, None if has_adapter(model) else dtype)
    world.first_alone(lambda: _write(model, tokenizer, Path(folder), weights))


def _whole(model: Any, dtype: torch.dtype | None) -> dict[str, Tensor] | None:
    """Gather all weights on the CPU in `dtype`; None if the model can be saved directly."""
    sharded = any(isinstance(parameter, DTensor) for parameter in model.parameters())
    if not sharded and dtype in (None, causal_lm(model).dtype):
        return None
    weights: dict[str, Any] = get_model_state_dict(
        model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )
    tied = getattr(causal_lm(model), "_tied_weights_keys", None) or {}
    shares = getattr(causal_lm(model).config, "tie_word_embeddings", False)
    return {
        name: weight.to(dtype) if dtype is not None and weight.is_floating_point() else weight
        for name, weight in weights.items()
        if not (shares and name in tied)
    }


def copy_model(source: Path, target: Path) -> None:
    """Copy a saved model to a second folder, whole or not at all.

    Raises:
        ModelError: if the folder cannot be written.
    """
    _place(target, lambda staging: shutil.copytree(source, staging, dirs_exist_ok=True))


def _write(model: Any, tokenizer: Any, target: Path, weights: dict[str, Tensor] | None) -> None:
    def fill(staging: Path) -> None:
        if is_stacked(model):
            save_stacked(model, staging, weights)
        else:
            model.save_pretrained(staging, **({} if weights is None else {"state_dict": dict(weights)}))
        if weights is not None:
            _state_dtype(staging / "config.json", weights)
        if tokenizer is not None:
            tokenizer.save_pretrained(staging)
        if not has_adapter(model):
            source = str(causal_lm(model).name_or_path)
            same_tokenizer = tokenizer is None or _same(source, str(getattr(tokenizer, "name_or_path", source)))
            copy_side_files(source, staging, own_tokenizer=same_tokenizer)

    saved = (
        [parameter for parameter in model.parameters() if parameter.requires_grad]
        if has_adapter(model)
        else model.parameters()
    )
    size = sum(
        parameter.numel() * parameter.element_size() for parameter in (saved if weights is None else weights.values())
    )
    _place(target, fill, size)


def _same(first: str, second: str) -> bool:
    return first == second or Path(first).expanduser().resolve() == Path(second).expanduser().resolve()


def _place(target: Path, fill: Callable[[Path], Any], size: int = 0) -> None:
    try:
        require_space(target, size, "the weights of the model")
        write_folder(target, fill, _is_foreign)
    except DiskError as error:
        why = str(error) if error.__cause__ is None else reason(error.__cause__, target)
        raise ModelError(f"{target}: cannot save the model ({why})") from error


def _is_foreign(name: str) -> bool:
    """Tell whether a file of the old folder stays beside a new model: a note or an edited card, but no model file."""
    return not any(fnmatch(name, pattern) for pattern in _OF_A_MODEL)


def _state_dtype(path: Path, weights: dict[str, Tensor]) -> None:
    """Write the saved dtype into the config: transformers would write the dtype in memory, and load by it."""
    if not path.is_file():
        return
    settings = json.loads(path.read_text(encoding="utf-8"))
    kinds = [str(weight.dtype).removeprefix("torch.") for weight in weights.values() if weight.is_floating_point()]
    settings["dtype"] = max(set(kinds), key=kinds.count)
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
