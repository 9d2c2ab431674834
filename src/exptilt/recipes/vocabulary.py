"""Which tokenizer a run uses; a model from scratch gets one trained on the run's own text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from exptilt.data.intake import read_records
from exptilt.data.records import Record, Text
from exptilt.policies.models import ModelConfig, load_tokenizer
from exptilt.policies.tokenizers import train_tokenizer
from exptilt.recipes.recipe import Recipe


def find_tokenizer(recipe: Recipe) -> Any:
    """The tokenizer a recipe names, or one trained on its training text and kept in the run folder."""
    if recipe.model.path is not None or recipe.model.tokenizer is not None or recipe.model.config is None:
        return load_tokenizer(recipe.model)
    kept = recipe.folder / "tokenizer"
    if kept.is_dir():
        return load_tokenizer(ModelConfig(tokenizer=str(kept)))
    records = read_records(recipe.data).train
    tokenizer = train_tokenizer(_texts(records), recipe.model.config.vocab_size)
    temporary = recipe.folder / ".tokenizer"
    tokenizer.save_pretrained(temporary)
    temporary.rename(kept)
    return tokenizer


def _texts(records: Iterable[Record]) -> Iterator[str]:
    for record in records:
        for text in (record.prompt, *record.completions):
            yield from _strings(text)


def _strings(text: Text) -> Iterator[str]:
    if isinstance(text, str):
        yield text
    else:
        yield from (str(message.get("content") or "") for message in text)
