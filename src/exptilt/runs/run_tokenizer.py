"""The tokenizer of a run; a model from scratch gets one trained on the run's own text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from exptilt.data.encode.chat_templates import with_chat_template
from exptilt.data.records import Record
from exptilt.data.splits import read_records
from exptilt.data.turns import said_by
from exptilt.disk import write_folder
from exptilt.errors import ModelError
from exptilt.policies.models import load_tokenizer
from exptilt.policies.tokenizers import train_tokenizer
from exptilt.settings.data_settings import DataConfig
from exptilt.settings.model_settings import ModelConfig


def find_tokenizer(model: ModelConfig, data: DataConfig, keep_in: Path | None = None) -> Any:
    """Load the tokenizer that settings name, or train one on the training text.

    It has the chat template of `data.chat_template`, which thereby gets into the folder of the trained model.

    Args:
        model: names a tokenizer, or the size of one to train.
        data: the text to train on.
        keep_in: the run folder; a tokenizer that was trained is kept there, and taken from there again. None keeps nothing.
    """
    return with_chat_template(_tokenizer_of(model, data, keep_in), data.chat_template)


def _tokenizer_of(model: ModelConfig, data: DataConfig, keep_in: Path | None) -> Any:
    if model.path is not None or (model.config is not None and model.tokenizer is not None):
        return named_tokenizer(model)
    if model.config is None:
        raise ModelError(
            "no model given: set model.path to a folder or hub id, or model.config to train a small one from scratch"
        )
    folder = None if keep_in is None else keep_in / "tokenizer"
    if folder is not None and folder.is_dir():
        return load_tokenizer(ModelConfig(tokenizer=str(folder)))
    records = read_records(data).train
    tokenizer = train_tokenizer(_texts(records), model.config.vocab_size)
    if folder is None:
        return tokenizer
    write_folder(folder, tokenizer.save_pretrained)
    return tokenizer


def named_tokenizer(model: ModelConfig) -> Any:
    """Load the tokenizer that settings name; an error says which key named it."""
    try:
        return load_tokenizer(model)
    except ModelError as error:
        key = "model.path" if model.tokenizer is None else "model.tokenizer"
        raise ModelError(f"{key}: {error}") from None


def _texts(records: Iterable[Record]) -> Iterator[str]:
    for record in records:
        for text in (record.prompt, *record.completions):
            yield from ([text] if isinstance(text, str) else (said_by(turn) for turn in text))
