"""Another reference passes the same gate, and how far it is from the start is said before step 1."""

from __future__ import annotations

import math

import pytest
import torch

from exptilt.errors import ModelError, TrainingError
from exptilt.policies.reference.other import load_reference
from exptilt.policies.reference.start_distance import start_distance
from exptilt.policies.tokenizers import train_word_tokenizer
from exptilt.settings.model_settings import ModelConfig
from exptilt.types import LogProbs


@pytest.fixture
def folder(make_model, tmp_path):
    def make(name: str, words: str | None, **settings) -> str:
        make_model("llama", **settings).save_pretrained(tmp_path / name)
        if words is not None:
            train_word_tokenizer([words]).save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return make


def test_another_tokenizer_is_refused_with_a_token(folder) -> None:
    mine, other = folder("mine", "the film was good"), folder("other", "was good the movie")
    tokenizer = train_word_tokenizer(["the film was good"])
    with pytest.raises(ModelError, match=r"has another tokenizer: '.*' is token \d+ here and .* there"):
        load_reference(ModelConfig(path=mine), other, tokenizer)
    with pytest.raises(ModelError, match="has another tokenizer"):  # also where nobody hands one over
        load_reference(ModelConfig(path=mine), other, None)


def test_a_smaller_vocabulary_is_refused_with_both_numbers(folder) -> None:
    mine, other = folder("mine", "the film was good"), folder("other", None, vocab_size=5)
    with pytest.raises(ModelError, match=r"the tokenizer has \d+ tokens, reference\.model=.*other only 5"):
        load_reference(ModelConfig(path=mine), other, None)


def test_the_same_tokens_pass_and_nothing_is_trained(folder) -> None:
    mine, other = folder("mine", "the film was good"), folder("other", "the film was good", vocab_size=64)
    model = load_reference(ModelConfig(path=mine), other, None)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_its_own_faults_name_the_key(folder, tmp_path) -> None:
    mine = folder("mine", "the film was good")
    with pytest.raises(ModelError, match=r"^reference\.model: .*gone: no such folder"):
        load_reference(ModelConfig(path=mine), str(tmp_path / "gone"), None)


def scorer(values: list[float]):
    return lambda groups: LogProbs(values=torch.tensor(values), lengths=torch.tensor([len(values)]))


def test_the_distance_is_nats_a_token_and_the_loss_is_beside_it() -> None:
    line = start_distance(scorer([-1.0, -2.0]), scorer([-1.5, -4.5]), [], name="old", loss=1.7, at_zero=math.log(2))
    assert "reference.model=old is another model" in line
    assert "differ by 1.5 nats a token; the loss starts at 1.7, not at 0.6931" in line
    assert "That is far" in line
    near = start_distance(scorer([-1.0]), scorer([-1.1]), [], name="old", loss=0.694, at_zero=math.log(2))
    assert "far" not in near
    assert "not at" not in near


def test_a_reference_that_excludes_a_token_stops_the_run() -> None:
    with pytest.raises(TrainingError, match="no probability at all"):
        start_distance(scorer([-1.0]), scorer([-math.inf]), [], name="old", loss=None, at_zero=None)
