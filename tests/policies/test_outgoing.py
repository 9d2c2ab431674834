"""Before step 1 it is known whether what a run saves will load."""

from __future__ import annotations

import pytest
import torch

from exptilt.errors import ModelError
from exptilt.policies.adapters import with_adapter
from exptilt.policies.outgoing import check_outgoing
from exptilt.policies.tokenizers import train_word_tokenizer
from exptilt.settings.model_settings import AdapterConfig


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3_moe", "mamba"])
def test_what_is_as_it_was_loaded_passes(make_model, kind) -> None:
    check_outgoing(make_model(kind), train_word_tokenizer(["the film"]))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    "settings",
    [{}, {"modules_to_save": ("lm_head",)}, {"dora": True}, {"targets": ("embed_tokens",)}, {"targets": ("lm_head",)}],
)
def test_adapters_pass(make_model, settings, tied) -> None:
    model = make_model("llama", tie_word_embeddings=tied)
    check_outgoing(with_adapter(model, AdapterConfig(rank=2, **settings)))


def test_rows_that_the_config_does_not_know(make_model) -> None:
    model = make_model("llama")
    model.resize_token_embeddings(60)
    model.config.vocab_size = 53
    with pytest.raises(
        ModelError, match=r"embed_tokens\.weight is \(60, 16\), and its config makes a model with \(53, 16\)"
    ):
        check_outgoing(model)


def test_a_layer_more_than_the_config_knows(make_model) -> None:
    model = make_model("llama")
    model.config.num_hidden_layers = 1
    model.config.layer_types = None
    with pytest.raises(ModelError, match=r"has no place for model\.layers\.1\."):
        check_outgoing(model)


def test_a_head_that_was_parted_from_its_embedding(make_model) -> None:
    model = make_model("llama", tie_word_embeddings=True)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() + 1)
    with pytest.raises(ModelError, match="embeddings and head are two matrices, and its config"):
        check_outgoing(model)


def test_a_generation_config_that_transformers_will_not_write(make_model) -> None:
    """It is checked when saved, after hours of training, and not when loaded."""
    model = make_model("llama")
    model.generation_config.do_sample = False
    model.generation_config.num_return_sequences = 4
    with pytest.raises(ModelError, match="cannot be loaded again"):
        check_outgoing(model)


def test_a_fault_of_the_adapter_on_its_way_out_is_found(make_model, monkeypatch) -> None:
    model = with_adapter(make_model("llama"), AdapterConfig(rank=2))
    save = type(model).save_pretrained

    def wrong(self, folder, **options):
        with torch.no_grad():
            weight = next(one for name, one in self.named_parameters() if "lora_B" in name)
            weight.add_(1)
            save(self, folder, **options)
            weight.sub_(1)

    monkeypatch.setattr(type(model), "save_pretrained", wrong)
    with pytest.raises(ModelError, match=r"would not be the trained one: .*lora_B"):
        check_outgoing(model)
