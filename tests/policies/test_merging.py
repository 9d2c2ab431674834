"""Merged is what base and adapter were, also at the head of a tied model."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from exptilt.errors import ModelError
from exptilt.policies import merging
from exptilt.policies.adapters import with_adapter
from exptilt.policies.merging import largest_difference, merge, probe
from exptilt.policies.models import load_model
from exptilt.policies.saving import save_model
from exptilt.policies.tokenizers import train_word_tokenizer
from exptilt.settings.model_settings import AdapterConfig, ModelConfig
from exptilt.verbs.export import merge_adapter


def adapted(folder, **settings):
    model = with_adapter(load_model(ModelConfig(path=str(folder))), AdapterConfig(rank=2, **settings))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)), alpha=0.3)
    return model.eval()


@pytest.fixture
def tied(make_model, tmp_path):
    make_model("llama", tie_word_embeddings=True).save_pretrained(tmp_path / "tied")
    train_word_tokenizer(["the film was good"]).save_pretrained(tmp_path / "tied")
    return tmp_path / "tied"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "settings",
    [
        {"targets": ("lm_head", "q_proj")},
        {"targets": ("embed_tokens", "q_proj")},
        {"targets": ("embed_tokens", "lm_head")},
        {"modules_to_save": ("lm_head",)},
        {"dora": True},
        {},
    ],
)
def test_merged_and_saved_it_is_base_and_adapter(tied, tmp_path, settings) -> None:
    model = adapted(tied, **settings)
    expected, plain = probe(model), probe(load_model(ModelConfig(path=str(tied))))
    assert largest_difference(expected, plain) > 0.1
    save_model(model, None, tmp_path / "adapter")
    assert merge_adapter(tmp_path / "adapter", tmp_path / "merged") < 1e-4
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    assert largest_difference(probe(again), expected) < 1e-4
    parted = any(name in str(settings) for name in ("lm_head", "embed_tokens"))
    assert again.config.tie_word_embeddings is not parted


def test_a_merge_that_changes_the_model_is_an_error(tied, monkeypatch) -> None:
    """What peft did to the head of a tied model: without parting the two, this is the fault."""
    monkeypatch.setattr(merging, "_part_head", lambda model: None)
    with pytest.raises(ModelError, match=r"merging changed the model: .* nothing was written"):
        merge(adapted(tied, targets=("lm_head",)))


def test_rounding_of_the_dtype_is_told_and_no_error(tied, tmp_path) -> None:
    AutoModelForCausalLM.from_pretrained(tied, dtype=torch.bfloat16).save_pretrained(tmp_path / "half")
    train_word_tokenizer(["the film was good"]).save_pretrained(tmp_path / "half")
    save_model(adapted(tmp_path / "half", targets=("q_proj",)), None, tmp_path / "adapter")
    assert 1e-5 < merge_adapter(tmp_path / "adapter", tmp_path / "merged") < 0.2
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "merged").dtype == torch.bfloat16


@pytest.mark.filterwarnings("ignore")
def test_prompts_cannot_be_merged(tied) -> None:
    from peft import PromptTuningConfig, get_peft_model

    model = get_peft_model(
        load_model(ModelConfig(path=str(tied))), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    )
    assert isinstance(model, PeftModel)
    with pytest.raises(ModelError, match="no change of weights"):
        merge(model)
