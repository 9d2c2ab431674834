"""What a model is, asked before data is read."""

from __future__ import annotations

import json
import shutil

import peft
import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification, LlamaForTokenClassification, T5Config

from exptilt.errors import ModelError
from exptilt.policies.adapters import as_one_line, with_adapter
from exptilt.policies.gate import identify
from exptilt.policies.models import load_model, load_tokenizer
from exptilt.policies.saving import save_model
from exptilt.policies.tokenizers import train_word_tokenizer
from exptilt.settings.model_settings import AdapterConfig, ModelConfig


@pytest.fixture
def plain(make_model, tmp_path):
    make_model("llama").save_pretrained(tmp_path / "plain")
    return tmp_path / "plain"


def failure(**settings) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(ModelConfig(**settings))
    text = str(caught.value)
    assert "\n" not in text
    assert len(text.replace(str(settings["path"]), "PATH")) < 300
    return text


def test_a_plain_model_is_plain(plain) -> None:
    found = identify(ModelConfig(path=str(plain)))
    assert (found.kind, found.adapter, found.method) == ("plain", None, "")


@pytest.mark.parametrize("tied", [True, False])
def test_a_reward_model_is_called_one(tmp_path, tied) -> None:
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=53, tie_word_embeddings=tied, num_labels=1, pad_token_id=0, **shape)
    LlamaForSequenceClassification(config).save_pretrained(tmp_path / "reward")
    message = failure(path=str(tmp_path / "reward"))
    assert "this is a reward model" in message
    assert "score.weight" in message
    if tied:  # a body and its embeddings are a language model without the head
        load_model(ModelConfig(path=str(tmp_path / "reward"), ignore_unexpected=True))
    else:
        with pytest.raises(ModelError, match=r"lacks 1 weight.*lm_head\.weight"):
            load_model(ModelConfig(path=str(tmp_path / "reward"), ignore_unexpected=True))


@pytest.mark.parametrize(
    ("name", "words"), [("v_head.summary.weight", "reward model"), ("classifier.weight", "head for another task")]
)
def test_weights_nobody_reads_are_named_and_fatal(plain, name, words) -> None:
    from safetensors.torch import load_file, save_file

    path = plain / "model.safetensors"
    save_file(load_file(path) | {name: torch.ones(1, 16)}, path, metadata={"format": "pt"})
    message = failure(path=str(plain))
    assert name in message
    assert words in message
    assert "model.ignore_unexpected=true" in message
    load_model(ModelConfig(path=str(plain), ignore_unexpected=True))


def test_weights_that_transformers_lists_as_ignorable_do_not_count(make_model, tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    make_model("gpt2", n_embd=16, n_head=2, n_layer=1).save_pretrained(tmp_path / "gpt2")
    path = tmp_path / "gpt2" / "model.safetensors"
    old = {"transformer.h.0.attn.masked_bias": torch.tensor(-1e4)}
    save_file(load_file(path) | old, path, metadata={"format": "pt"})
    load_model(ModelConfig(path=str(tmp_path / "gpt2")))


def test_what_does_not_fit_is_told_with_both_shapes(plain) -> None:
    path = plain / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"intermediate_size": 40}))
    assert "(24, 16) in the file, (40, 16) in the model" in failure(path=str(plain)).replace(
        "(16, 24)", "(24, 16)"
    ).replace("(16, 40)", "(40, 16)")


def test_no_causal_model_is_refused_by_name(tmp_path) -> None:
    T5Config(d_model=8, num_layers=1, vocab_size=11).save_pretrained(tmp_path / "t5")
    assert "t5 is none" in failure(path=str(tmp_path / "t5"))


def test_an_adapter_on_an_adapter_is_refused(plain, tmp_path) -> None:
    model = with_adapter(load_model(ModelConfig(path=str(plain))), AdapterConfig(rank=2))
    for name in ("one", "two"):
        save_model(model, None, tmp_path / name)
    path = tmp_path / "two" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": str(tmp_path / "one")}))
    assert "is an adapter on another adapter" in failure(path=str(tmp_path / "two"))


CODE = """
from transformers import LlamaConfig, LlamaForCausalLM


class OwnConfig(LlamaConfig):
    model_type = "own_kind"


class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def custom(plain):
    """A folder with code of its own, as many models on the hub are."""
    (plain / "modeling_own.py").write_text(CODE)
    path = plain / "config.json"
    auto = {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "own_kind", "auto_map": auto}))
    return plain


def test_code_of_its_own_is_never_run_unasked(custom, monkeypatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    assert "set model.trust_remote_code=true" in failure(path=str(custom))


@pytest.mark.filterwarnings("ignore")
def test_trusted_it_trains_and_its_code_travels_along(custom, tmp_path) -> None:
    from exptilt.policies.outgoing import check_outgoing

    model = load_model(ModelConfig(path=str(custom), trust_remote_code=True))
    assert type(model).__name__ == "OwnForCausalLM"
    check_outgoing(model, trust_remote_code=True)
    save_model(model, None, tmp_path / "out")
    assert (tmp_path / "out" / "modeling_own.py").read_text() == CODE
    again = load_model(ModelConfig(path=str(tmp_path / "out"), trust_remote_code=True))
    for name, weight in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name


def cached(folder, name: str, cache):
    """Put a folder into a cache of the hub as a download would have left it."""
    owner = cache / f"models--{name.replace('/', '--')}"
    shutil.copytree(folder, owner / "snapshots" / ("0" * 40))
    (owner / "refs").mkdir()
    (owner / "refs" / "main").write_text("0" * 40)


def test_a_cached_hub_id_of_an_adapter_is_an_adapter(plain, tmp_path, monkeypatch) -> None:
    words = train_word_tokenizer(["the film was good"])
    words.save_pretrained(plain)
    model = with_adapter(load_model(ModelConfig(path=str(plain))), AdapterConfig(rank=2))
    save_model(model, None, tmp_path / "adapter")
    cached(tmp_path / "adapter", "team/sft", tmp_path / "hub")
    for module in ("huggingface_hub.constants", "transformers.utils.hub", "huggingface_hub.file_download"):
        for constant in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
            monkeypatch.setattr(f"{module}.{constant}", str(tmp_path / "hub"), raising=False)
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    settings = ModelConfig(path="team/sft")
    found = identify(settings)
    assert (found.kind, found.path) == ("adapter", str(plain))
    assert hasattr(load_model(settings), "peft_config")
    assert len(load_tokenizer(settings)) == len(words)


def test_the_adapter_of_a_classifier_is_no_adapter_of_a_language_model(plain, tmp_path) -> None:
    """peft leaves out the head without a word, and what is left trains, samples and is compared with."""
    from transformers import AutoModelForTokenClassification

    with as_one_line("peft"):
        tags = AutoModelForTokenClassification.from_pretrained(plain, num_labels=3)
        made = peft.get_peft_model(tags, peft.LoraConfig(task_type="TOKEN_CLS", r=2, target_modules=["q_proj"]))
    made.save_pretrained(tmp_path / "adapter")
    path = str(tmp_path / "adapter")
    message = failure(path=path)
    assert "is an adapter for another kind of model (task TOKEN_CLS)" in message
    assert "nobody reads base_model.model.score." in message
    assert "model.ignore_unexpected=true" in message
    assert load_model(ModelConfig(path=path, ignore_unexpected=True)).peft_config
    with pytest.raises(ModelError, match="another kind of model") as caught:
        with_adapter(load_model(ModelConfig(path=str(plain))), AdapterConfig(path=path))
    assert "ignore_unexpected" not in str(caught.value)  # it is no key of adapters that are trained on


def test_a_layer_trained_whole_and_embeddings_belong_to_an_adapter(plain, tmp_path) -> None:
    with as_one_line("peft"):
        settings = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
        made = peft.get_peft_model(load_model(ModelConfig(path=str(plain))), settings)
        made.save_pretrained(tmp_path / "whole", save_embedding_layers=True)
    assert load_model(ModelConfig(path=str(tmp_path / "whole"))).peft_config


def test_a_kind_of_adapter_that_peft_does_not_know_is_one_line(plain, tmp_path) -> None:
    save_model(with_adapter(load_model(ModelConfig(path=str(plain))), AdapterConfig(rank=2)), None, tmp_path / "odd")
    settings = json.loads((tmp_path / "odd" / "adapter_config.json").read_text())
    (tmp_path / "odd" / "adapter_config.json").write_text(json.dumps(settings | {"peft_type": "TOMORROW"}))
    assert "peft does not know 'TOMORROW'" in failure(path=str(tmp_path / "odd"))


def test_weights_that_git_lfs_did_not_fetch_are_named(plain) -> None:
    (plain / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "model.safetensors: this is a git-lfs pointer, not the weights" in failure(path=str(plain))


def test_a_head_that_scores_tokens_is_no_reward_model(tmp_path) -> None:
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForTokenClassification(LlamaConfig(vocab_size=53, num_labels=3, **shape)).save_pretrained(tmp_path / "tags")
    message = failure(path=str(tmp_path / "tags"))
    assert "a model with a head for another task, saved as LlamaForTokenClassification" in message
