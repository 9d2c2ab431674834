"""Small objects of a Python program."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from exptilt.policies.tokenizers import train_tokenizer

SECTIONS = {
    "batch": {"size": 8},
    "optim": {"learning_rate": 1e-2},
    "train": {"max_steps": 2},
    "evaluate": {"num_prompts": 2, "num_samples": 1, "max_new_tokens": 4},
}


@pytest.fixture
def sections():
    """Sections of a run of two steps."""
    return dict(SECTIONS)


@pytest.fixture
def tokenizer(pairs):
    return train_tokenizer([row["prompt"] + row["chosen"] + row["rejected"] for row in pairs()], vocab_size=300)


@pytest.fixture
def make_object(tokenizer):
    """`make_object(seed=0)`: a small Llama with the tokenizer's vocabulary."""

    def make(seed: int = 0, kind=LlamaForCausalLM, **more):
        shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
        marks = {"bos_token_id": 1, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return kind(
                LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **shape, **marks, **more)
            ).eval()

    return make


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
