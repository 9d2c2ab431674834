"""Rows for new tokens."""

from __future__ import annotations

import pytest
import torch

from exptilt.errors import ModelError
from exptilt.policies.embeddings import add_rows
from exptilt.policies.models import load_model
from exptilt.policies.outgoing import check_outgoing
from exptilt.policies.saving import save_model
from exptilt.policies.tokenizers import train_word_tokenizer
from exptilt.settings.model_settings import ModelConfig

WORDS = " ".join(f"w{number}" for number in range(60))


@pytest.mark.parametrize("tied", [True, False])
def test_new_rows_are_the_mean_and_ties_stay(make_model, tmp_path, tied) -> None:
    make_model("llama", tie_word_embeddings=tied).save_pretrained(tmp_path / "old")
    tokenizer = train_word_tokenizer([WORDS])
    with pytest.raises(ModelError, match=r"model\.resize_embeddings=true"):
        load_model(ModelConfig(path=str(tmp_path / "old")), tokenizer)
    before = load_model(ModelConfig(path=str(tmp_path / "old")))
    model = load_model(ModelConfig(path=str(tmp_path / "old"), resize_embeddings=True), tokenizer)
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert (embedding is head) == tied
    assert len(embedding) == len(head) == model.config.vocab_size == len(tokenizer)
    for now, old in ((embedding, before.get_input_embeddings().weight), (head, before.get_output_embeddings().weight)):
        assert torch.equal(now[:53], old)
        torch.testing.assert_close(now[53:], old.mean(0).expand(len(tokenizer) - 53, -1))
    check_outgoing(model, tokenizer)
    save_model(model, tokenizer, tmp_path / "new")
    again = load_model(ModelConfig(path=str(tmp_path / "new")), tokenizer)
    assert torch.equal(again.get_output_embeddings().weight, head)


def test_a_model_with_more_rows_than_tokens_stays(make_model) -> None:
    model = make_model("llama")
    assert add_rows(model, 40) == 0
    assert len(model.get_input_embeddings().weight) == 53
