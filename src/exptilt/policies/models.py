"""Models and their tokenizers: from a folder or the hub, an adapter with its base, or a small configuration."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    BitsAndBytesConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging
from transformers.utils.import_utils import is_bitsandbytes_available

from exptilt.errors import ModelError
from exptilt.in_memory import is_in_memory, kind_in
from exptilt.policies.adapters import base_of, find_adapter, is_score_adapter, load_adapter
from exptilt.policies.embeddings import add_rows
from exptilt.policies.engine.forward import causal_lm
from exptilt.policies.engine.product import prefer_onednn
from exptilt.policies.gate import Incoming, identify, refused, require_all_read
from exptilt.policies.model_files import TOKENIZER_FILES, check_folder
from exptilt.policies.model_heads import LANGUAGE_HEAD, SCORE_HEAD, ModelHead, set_padding
from exptilt.policies.models_in_memory import held_model, held_tokenizer
from exptilt.processes.allocator import keep_freed
from exptilt.processes.surroundings import is_borrowed
from exptilt.processes.world import local_device
from exptilt.settings.model_settings import ModelConfig, SmallModel


def load_model(
    settings: ModelConfig,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    seed: int = 0,
    head: ModelHead = LANGUAGE_HEAD,
) -> PreTrainedModel:
    """Load a model, or make one with random weights; in evaluation mode, on the CPU (4-bit weights where they run).

    A folder of an adapter gives a `peft.PeftModel` around its base. Inside `processes.surroundings.left_as_found`, which
    all verbs enter, it also chooses the faster library for products of float32 on this processor (`prefer_onednn`) and
    keeps memory that is freed (`keep_freed`); your own process it leaves alone.

    Args:
        settings: which model.
        tokenizer: its vocabulary sizes a model from scratch, and is checked against a loaded one. Beside a reward model
            it gets a padding token if it has none.
        seed: seed of random weights; torch's global generator is left as it was. The score of a reward model that starts
            from a language model is the one that TRL's RewardTrainer draws with this seed.
        head: whether it is loaded as a language model or as a reward model.

    Raises:
        ModelError: the folder is missing or no such model, the hub does not give it, a weight is missing, or
            the tokenizer has more tokens than the model.
    """
    if is_borrowed():
        prefer_onednn()
        keep_freed()
    if settings.config is not None:
        if tokenizer is None:
            raise ModelError(
                "model.config makes a model from scratch and needs a tokenizer; set model.tokenizer, or train one"
            )
        model = _from_scratch(settings, settings.config, tokenizer, seed, head)
    elif is_in_memory(settings.path):
        model = held_model(settings, head)
        _add_rows_if_wanted(settings, model, tokenizer)
    elif settings.path is not None:
        model = _incoming(settings, identify(settings, head), tokenizer, seed, head)
    else:
        raise ModelError(
            "no model given: set model.path to a folder or hub id, or model.config to train one from scratch"
        )
    if tokenizer is not None:
        check_vocabulary(model, tokenizer)
        inner = causal_lm(model)
        if head.made or (head.labels and inner.config.pad_token_id is None):
            set_padding(inner, tokenizer)
    model.eval()  # type: ignore[no-untyped-call]
    return model


def load_tokenizer(settings: ModelConfig) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model.

    Raises:
        ModelError: there is no tokenizer, or it has no end token.
    """
    path = settings.tokenizer or settings.path
    if path is None:
        raise ModelError("no tokenizer given: set model.tokenizer to a folder or hub id, or train one")
    if is_in_memory(path):
        return _with_end_token(held_tokenizer(path), kind_in(path))
    adapter = None if settings.tokenizer is not None else find_adapter(path, settings.revision)
    if adapter is not None:
        path = str(adapter) if any((adapter / name).is_file() for name in TOKENIZER_FILES) else base_of(adapter)
    check_folder(path, "tokenizer", TOKENIZER_FILES)
    revision = settings.revision if settings.tokenizer is None and adapter is None else None
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=settings.trust_remote_code)
    except Exception as error:  # transformers, tokenizers and the hub each raise their own kinds
        raise refused(path, "a tokenizer", error) from error
    return _with_end_token(tokenizer, path)


def _with_end_token(tokenizer: PreTrainedTokenizerBase, path: str) -> PreTrainedTokenizerBase:
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"{path}: the tokenizer has no end token (eos_token), so no completion could ever end; set one"
        )
    return tokenizer


def _from_scratch(
    settings: ModelConfig, small: SmallModel, tokenizer: PreTrainedTokenizerBase, seed: int, head: ModelHead
) -> PreTrainedModel:
    architecture = architecture_of(small, tokenizer)
    _set_dropout(architecture, settings.dropout)
    dtype = torch.bfloat16 if settings.dtype == "bfloat16" else torch.float32
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = head.model(architecture, dtype=torch.float32)
    return model.to(dtype)  # type: ignore[no-any-return]


def architecture_of(small: SmallModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedConfig:
    """The configuration of a small model with this tokenizer's vocabulary."""
    shared: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": small.tie_embeddings,
        "initializer_range": small.initializer_range,
    }
    if small.architecture == "gpt2":
        return GPT2Config(
            n_embd=small.hidden_size,
            n_layer=small.num_layers,
            n_head=small.num_heads,
            n_inner=small.intermediate_size or 4 * small.hidden_size,
            n_positions=small.max_positions,
            **shared,
        )
    return LlamaConfig(
        hidden_size=small.hidden_size,
        num_hidden_layers=small.num_layers,
        num_attention_heads=small.num_heads,
        num_key_value_heads=small.num_key_value_heads or small.num_heads,
        intermediate_size=small.intermediate_size or -(-small.hidden_size // 3) * 8,
        max_position_embeddings=small.max_positions,
        **shared,
    )


def _incoming(
    settings: ModelConfig, incoming: Incoming, tokenizer: PreTrainedTokenizerBase | None, seed: int, head: ModelHead
) -> Any:
    if incoming.adapter is None:
        return _from_path(settings, incoming, tokenizer, seed, head)
    base = replace(settings, path=incoming.path, revision=incoming.revision)
    brings_score = bool(head.labels) and is_score_adapter(incoming.adapter)
    model = load_model(base, tokenizer, seed=seed, head=SCORE_HEAD if brings_score else head)
    return load_adapter(model, incoming.adapter, ignore_unexpected=settings.ignore_unexpected)


def _from_path(
    settings: ModelConfig, incoming: Incoming, tokenizer: PreTrainedTokenizerBase | None, seed: int, head: ModelHead
) -> PreTrainedModel:
    path, architecture = incoming.path, incoming.config
    dtype = "auto" if settings.dtype == "auto" else getattr(torch, settings.dtype)
    _set_dropout(architecture, settings.dropout)
    try:
        with torch.random.fork_rng(devices=[]), _quiet_about(head):
            torch.manual_seed(seed)
            model, info = head.auto.from_pretrained(
                path,
                revision=settings.revision,
                config=architecture,
                dtype=dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused below, with both shapes
                trust_remote_code=settings.trust_remote_code,
                **_quantised(settings, incoming, dtype),
            )
    except ModelError:
        raise
    except Exception as error:  # transformers, safetensors and the hub each raise their own kinds
        raise refused(path, head.what, error) from error
    require_all_read(path, model.config, info, head, ignore_unexpected=settings.ignore_unexpected)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # Its layout for inference has no gradient, and stays once the reference has been scored.
            module.support_avx512bf16_for_cpu = False
    _add_rows_if_wanted(settings, model, tokenizer)
    return model  # type: ignore[no-any-return]


def _add_rows_if_wanted(settings: ModelConfig, model: Any, tokenizer: PreTrainedTokenizerBase | None) -> None:
    if settings.resize_embeddings and tokenizer is not None:
        add_rows(model, len(tokenizer))


@contextmanager
def _quiet_about(head: ModelHead) -> Iterator[None]:
    """Hide transformers' report on weights that are missing or unread where a new head is expected; ours says what is wrong."""
    before = transformers_logging.get_verbosity()
    if head.made:
        transformers_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def _quantised(settings: ModelConfig, incoming: Incoming, dtype: Any) -> dict[str, Any]:
    """Quantisation arguments for transformers: from the recipe, or from the saved model."""
    if incoming.method:
        if settings.quantize != "none" and "bitsandbytes" not in incoming.method:
            raise ModelError(
                f"{incoming.path}: its weights are quantised already ({incoming.method}); leave out model.quantize"
            )
        return {"device_map": {"": local_device()}}
    return _four_bits(dtype) if settings.quantize == "nf4" else {}


def _four_bits(dtype: Any) -> dict[str, Any]:
    """The 4-bit settings of QLoRA: normal floats, with quantised scales."""
    if not is_bitsandbytes_available():
        raise ModelError("model.quantize=nf4 needs bitsandbytes: pip install 'exptilt[qlora]'")
    settings = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if dtype == "auto" and torch.cuda.is_available() else torch.float32,
    )
    return {"quantization_config": settings, "device_map": {"": local_device()}}


def _set_dropout(architecture: Any, rate: float | None) -> None:
    if rate is None:
        return
    for name, value in architecture.to_dict().items():
        if (
            ("dropout" in name or name.endswith("pdrop"))
            and isinstance(value, float | int)
            and not isinstance(value, bool)
        ):
            setattr(architecture, name, rate)


def check_vocabulary(model: Any, tokenizer: PreTrainedTokenizerBase, whose: str = "the model") -> None:
    """Require that every token has a row in the embeddings.

    Raises:
        ModelError: the tokenizer has more tokens; the message gives both numbers.
    """
    known = len(causal_lm(model).get_input_embeddings().weight)
    if len(tokenizer) > known:
        raise ModelError(
            f"the tokenizer has {len(tokenizer)} tokens, {whose} only {known}; they do not belong together, "
            "or tokens were added without resizing the model's embeddings (model.resize_embeddings=true adds their rows)"
        )
