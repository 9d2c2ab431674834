from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from exptilt.data.groups import Completion, Group

VOCABULARY = 53
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WINDOW = {"sliding_window": 5}
GROUPED = {"num_key_value_heads": 2}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build(kind: str, **settings: Any) -> PreTrainedModel:
    """A tiny model whose weights are large enough that every part of it matters."""
    config = AutoConfig.for_model(kind, **{**SHAPE, **settings})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.15)
    return model.eval()


@pytest.fixture
def make_model() -> Callable[..., PreTrainedModel]:
    return build


def draw_group(rng: np.random.Generator, prompt: int, *lengths: int, share: float = 1.0) -> Group:
    completions = tuple(
        Completion(rng.integers(3, VOCABULARY, length, dtype=np.int32), rng.random(length) < share)
        for length in lengths
    )
    return Group(
        id=f"rows.jsonl:{prompt}", prompt=rng.integers(3, VOCABULARY, prompt, dtype=np.int32), completions=completions
    )


@pytest.fixture
def make_group() -> Callable[..., Group]:
    """`make_group(prompt_length, completion_length, ..., share=counted share, seed=0)`."""

    def make(prompt: int, *lengths: int, share: float = 1.0, seed: int = 0) -> Group:
        return draw_group(np.random.default_rng([seed, prompt, *lengths]), prompt, *lengths, share=share)

    return make


@pytest.fixture
def groups() -> list[Group]:
    """Prompts longer and shorter than completions, single tokens, partly counted ones, sixteen of one prompt."""
    rng = np.random.default_rng(7)
    return [
        draw_group(rng, 6, 5, 9),
        draw_group(rng, 14, 3, 1, 6),
        draw_group(rng, 1, 20),
        draw_group(rng, 3, 1, 1),
        draw_group(rng, 9, 4, 4, share=0.5),
        draw_group(rng, 4, 3, share=0.0),
        draw_group(rng, 5, *range(1, 17)),
    ]


@pytest.fixture
def separate() -> Callable[[Any, list[Group]], torch.Tensor]:
    """The oracle: one plain forward pass per completion; (N, V) log-probabilities at counted positions."""

    def run(model: Any, groups: list[Group]) -> torch.Tensor:
        rows = []
        for group in groups:
            for completion in group.completions:
                ids = torch.from_numpy(np.concatenate([group.prompt, completion.ids]).astype(np.int64))
                logits = model(input_ids=ids[None], use_cache=False).logits[0]
                places = len(group.prompt) - 1 + np.flatnonzero(completion.counted)
                rows.append(torch.log_softmax(logits[places], dim=-1))
        return torch.cat(rows)

    return run


@pytest.fixture
def targets_of() -> Callable[[list[Group]], torch.Tensor]:
    def run(groups: list[Group]) -> torch.Tensor:
        ids = [completion.ids[completion.counted] for group in groups for completion in group.completions]
        return torch.from_numpy(np.concatenate(ids).astype(np.int64))

    return run
