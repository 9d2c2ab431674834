"""A tokenizer trained on a few lines, for models that rewards run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from exptilt.policies.tokenizers import train_tokenizer

LINES = ["the film was good and the plot was bad", "what do you think of it", "I liked it very much"] * 4


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return train_tokenizer(LINES, vocab_size=300)


def _save_model(
    tokenizer: Any, folder: Path, kind: str = "llama", seed: int = 0, *, labels: int = 0, **settings: Any
) -> Path:
    """A tiny model with its tokenizer; with labels one that classifies, else a causal one."""
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    rest = {"max_position_embeddings": 64, "pad_token_id": tokenizer.pad_token_id, **ids, **settings}
    if labels:
        rest["num_labels"] = labels
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), **shape, **rest)
    auto = AutoModelForSequenceClassification if labels else AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = auto.from_config(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def save_model(tokenizer: Any) -> Callable[..., Path]:
    """`save_model(folder, kind, seed=0, labels=0, **config)`."""
    return partial(_save_model, tokenizer)
