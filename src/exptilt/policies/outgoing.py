"""The check, before step 1, that the model this run saves will load again."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoConfig

from exptilt.disk import is_refusal, reason
from exptilt.errors import DiskError, ModelError
from exptilt.policies.adapter_weights import bare_name, names_of_base
from exptilt.policies.adapters import has_adapter
from exptilt.policies.engine.forward import causal_lm
from exptilt.policies.model_heads import head_of
from exptilt.policies.stacked import is_stacked, save_stacked
from exptilt.wording import in_one_line


def check_outgoing(model: Any, tokenizer: Any = None, *, trust_remote_code: bool = False) -> None:
    """Save everything but large weights into a temporary folder, and load it as any user would.

    An adapter is written, compared number by number with the one in memory, and put on a base of the same kind without
    weights (torch's meta device). For a full model, config, generation config and tokenizer are written and read, and the
    names, shapes and ties of its weights are compared with those of a model made from that config.

    Args:
        model: the model that will be trained; whole, not sharded.
        tokenizer: the tokenizer saved beside it.
        trust_remote_code: the recipe's permission for code of the model's own.

    Raises:
        ModelError: the saved model would not load, or would differ.
    """
    inner = causal_lm(model)
    with tempfile.TemporaryDirectory(prefix="exptilt-") as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(name)
        try:
            _write(model, tokenizer, folder)
            expected = _expected(inner, folder, trust_remote_code)
            if has_adapter(model):
                _check_adapter(model, expected, folder)
            else:
                _compare(inner, expected)
        except ModelError:
            raise
        except Exception as error:  # whatever fails here would fail at the end of the run
            if is_refusal(error):
                raise DiskError(f"{folder}: cannot be written: {reason(error, folder)}") from error
            raise ModelError(f"what this run would save cannot be loaded again ({in_one_line(error)})") from error


def _write(model: Any, tokenizer: Any, folder: Path) -> None:
    inner = causal_lm(model)
    inner.config.save_pretrained(folder)
    if getattr(inner, "generation_config", None) is not None:
        inner.generation_config.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
        type(tokenizer).from_pretrained(folder)
    if is_stacked(model):
        save_stacked(model, folder)
    elif has_adapter(model):
        model.save_pretrained(folder)


def _expected(inner: Any, folder: Path, trust_remote_code: bool) -> Any:
    """Make the model that loading would make, without weights."""
    if inner.config.model_type in CONFIG_MAPPING:
        config = AutoConfig.from_pretrained(folder)
    else:
        config = AutoConfig.from_pretrained(inner.name_or_path, trust_remote_code=trust_remote_code)
    for part in (config, config.get_text_config()):
        if hasattr(part, "quantization_config"):
            del part.quantization_config
    with torch.device("meta"):
        return head_of(inner).model(config, trust_remote_code=trust_remote_code)


def _compare(inner: Any, expected: Any) -> None:
    saved, expected_shapes = (
        {name: tuple(value.shape) for name, value in module.state_dict().items()} for module in (inner, expected)
    )
    for name, shape in saved.items():
        if name in expected_shapes and expected_shapes[name] != shape:
            raise ModelError(
                f"the saved model would not load: {name} is {shape}, and its config makes a model with {expected_shapes[name]}"
            )
    odd = sorted(saved.keys() ^ expected_shapes.keys())
    if odd:
        side = "has no place for" if odd[0] in saved else "also has"
        raise ModelError(
            f"the saved model would not load: a model made from its config {side} {odd[0]} ({len(odd)} in all)"
        )
    if _is_tied(inner) != _is_tied(expected):
        words = ("one matrix", "two") if _is_tied(inner) else ("two matrices", "one")
        raise ModelError(
            f"the saved model would be another: embeddings and head are {words[0]}, and its config (tie_word_embeddings) "
            f"makes them {words[1]} when it is loaded"
        )


def _is_tied(model: Any) -> bool:
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    return head is not None and getattr(head, "weight", None) is getattr(embedding, "weight", 0)


def _check_adapter(model: Any, base: Any, folder: Path) -> None:
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors.torch import load_file

    loaded = PeftModel.from_pretrained(base, str(folder))
    again = get_peft_model_state_dict(loaded, save_embedding_layers=False)
    own = names_of_base(loaded)  # peft saves embeddings and head whole beside an adapter on them, and loads them again
    stored = load_file(folder / "adapter_model.safetensors")
    now = {} if is_stacked(model) else get_peft_model_state_dict(model, save_embedding_layers=False)
    for name, value in stored.items():
        weight = own.get(bare_name(name)) if name not in again else again[name]
        if weight is None or weight.shape != value.shape:
            raise ModelError(
                f"the saved adapter would not load as it was trained: {name} has no place or another shape"
            )
        if name in now and not torch.equal(now[name].to("cpu"), value):
            raise ModelError(f"the saved adapter would not be the trained one: {name} differs in the file")
    lost = sorted(now.keys() - stored.keys())
    if lost:
        raise ModelError(f"the saved adapter would lack what is trained: {lost[0]} ({len(lost)} in all)")
