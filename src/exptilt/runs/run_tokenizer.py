"""Which tokenizer a run uses; a model from scratch gets one trained on the run's own text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from exptilt.data.records import Record, Text
from exptilt.data.splits import read_records
from exptilt.errors import ModelError
from exptilt.policies.models import load_tokenizer
from exptilt.policies.tokenizers import train_tokenizer
from exptilt.settings.data_settings import DataConfig
from exptilt.settings.model_settings import ModelConfig


def find_tokenizer(model: ModelConfig, data: DataConfig, keep_in: Path | None = None) -> Any:
    """The tokenizer that settings name, or one trained on the training text.

    Args:
        model: names a tokenizer, or the size of one to train.
        data: the text to train on.
        keep_in: the run folder; a tokenizer that was trained is kept there, and taken from there again. None keeps nothing.
    """
    if model.path is not None or (model.config is not None and model.tokenizer is not None):
        return named_tokenizer(model)
    if model.config is None:
        raise ModelError(
            "no model given: set model.path to a folder or hub id, or model.config to train a small one from scratch"
        )
    kept = None if keep_in is None else keep_in / "tokenizer"
    if kept is not None and kept.is_dir():
        return load_tokenizer(ModelConfig(tokenizer=str(kept)))
    records = read_records(data).train
    tokenizer = train_tokenizer(_texts(records), model.config.vocab_size)
    if kept is None:
        return tokenizer
    temporary = kept.with_name(".tokenizer")
    tokenizer.save_pretrained(temporary)
    temporary.rename(kept)
    return tokenizer


def named_tokenizer(model: ModelConfig) -> Any:
    """The tokenizer that settings name; an error says which key named it."""
    try:
        return load_tokenizer(model)
    except ModelError as error:
        key = "model.path" if model.tokenizer is None else "model.tokenizer"
        raise ModelError(f"{key}: {error}") from None


def _texts(records: Iterable[Record]) -> Iterator[str]:
    for record in records:
        for text in (record.prompt, *record.completions):
            yield from _strings(text)


def _strings(text: Text) -> Iterator[str]:
    if isinstance(text, str):
        yield text
    else:
        yield from (str(message.get("content") or "") for message in text)
