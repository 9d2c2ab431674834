"""Two small models that talk, and one process that holds them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from exptilt.conversations.chat_request import ChatRequest
from exptilt.conversations.model_process import ModelProcess
from exptilt.policies.models import load_model
from exptilt.policies.saving import save_model
from exptilt.policies.tokenizers import train_tokenizer
from exptilt.sampling.sampling_law import SamplingLaw
from exptilt.settings.model_settings import ModelConfig, SmallModel


@pytest.fixture(scope="session")
def talkers(tmp_path_factory) -> tuple[Path, Path]:
    """Folders of two models with one tokenizer and a chat template."""
    folders = (tmp_path_factory.mktemp("talkers") / "one", tmp_path_factory.mktemp("talkers") / "other")
    tokenizer = train_tokenizer(["the film was good and the plot was bad"] * 4, 300)
    for seed, folder in enumerate(folders):
        size = SmallModel(hidden_size=16, num_layers=1, num_heads=2, max_positions=256)
        save_model(load_model(ModelConfig(config=size), tokenizer, seed=seed), tokenizer, folder)
    return folders


@pytest.fixture(scope="session")
def request_of_two(talkers) -> ChatRequest:
    one, other = talkers
    return ChatRequest(
        model=ModelConfig(path=str(one)), against=ModelConfig(path=str(other)), law=SamplingLaw(max_new_tokens=12)
    )


@pytest.fixture(scope="session")
def models(request_of_two) -> Iterator[ModelProcess]:
    with ModelProcess(request_of_two) as process:
        yield process
