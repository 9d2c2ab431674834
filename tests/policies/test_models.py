from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from exptilt.errors import ConfigError, ModelError
from exptilt.policies.engine.self_check import packable
from exptilt.policies.fingerprint import fingerprint
from exptilt.policies.models import load_model, load_tokenizer
from exptilt.policies.saving import save_model
from exptilt.policies.tokenizers import train_word_tokenizer
from exptilt.settings.load import build
from exptilt.settings.model_settings import ModelConfig, SmallModel
from exptilt.settings.yaml_source import Source

SMALL = SmallModel(hidden_size=16, num_layers=1, num_heads=2, max_positions=32)


@pytest.fixture
def tokenizer():
    return train_word_tokenizer(["the film was good ."])


@pytest.fixture
def folder(tmp_path, tokenizer):
    save_model(load_model(ModelConfig(config=SMALL), tokenizer), tokenizer, tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_from_scratch_has_the_asked_shape(architecture, tokenizer) -> None:
    small = SmallModel(architecture=architecture, hidden_size=16, num_layers=1, num_heads=2, max_positions=32)
    model = load_model(ModelConfig(config=small), tokenizer)
    # Tied embeddings of 9 words, then attention, feed-forward and norms; gpt2 has 32 learned positions and biases too.
    counted = {"llama": 9 * 16 + 4 * 256 + 3 * 16 * 48 + 3 * 16, "gpt2": 9 * 16 + 512 + 12 * 256 + 13 * 16 + 2 * 16}
    assert model.num_parameters() == counted[architecture]
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert model.config.max_position_embeddings == 32
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_seed_decides_weights_and_nothing_else_is_disturbed(tokenizer) -> None:
    state = torch.get_rng_state()
    first, again, other = (load_model(ModelConfig(config=SMALL), tokenizer, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert fingerprint(first) == fingerprint(again) != fingerprint(other)


def test_saved_folder_loads_in_plain_transformers(tmp_path, tokenizer) -> None:
    model = load_model(ModelConfig(config=SMALL), tokenizer)
    assert packable(model)
    save_model(model, tokenizer, tmp_path / "out")
    plain, words = (
        AutoModelForCausalLM.from_pretrained(tmp_path / "out"),
        AutoTokenizer.from_pretrained(tmp_path / "out"),
    )
    ids = torch.tensor([words.encode("the film was")])
    assert plain.config._attn_implementation == "sdpa"
    torch.testing.assert_close(plain(ids).logits, model(ids).logits)
    assert "exptilt" not in (tmp_path / "out" / "config.json").read_text()
    assert fingerprint(plain) == fingerprint(model)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_saving_over_a_folder_replaces_it_whole(folder, tokenizer) -> None:
    (folder / "stale.bin").write_text("old")
    save_model(load_model(ModelConfig(config=SMALL), tokenizer, seed=5), None, folder)
    assert not (folder / "stale.bin").exists()
    assert not (folder / "tokenizer.json").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_save_that_fails_leaves_the_old_folder(folder, tokenizer, monkeypatch) -> None:
    model = load_model(ModelConfig(path=str(folder)), tokenizer)
    before = fingerprint(model)

    def full(path):
        (path / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model, "save_pretrained", full)
    with pytest.raises(ModelError, match=r"model: cannot save the model \(.*No space left on device"):
        save_model(model, tokenizer, folder)
    assert fingerprint(load_model(ModelConfig(path=str(folder)), tokenizer)) == before
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_what_a_killed_save_left_behind_goes_with_the_next_save(folder, tokenizer) -> None:
    model = load_model(ModelConfig(path=str(folder)), tokenizer)
    for name in (".model.exptilt-abc", ".model.exptilt-abc.old"):
        (folder.parent / name).mkdir()
        (folder.parent / name / "model.safetensors").write_bytes(b"half")
    save_model(model, tokenizer, folder)
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    assert fingerprint(load_model(ModelConfig(path=str(folder)), tokenizer)) == fingerprint(model)


def test_dropout_and_dtype_as_asked(folder, tokenizer) -> None:
    model = load_model(ModelConfig(path=str(folder), dropout=0.25, dtype="bfloat16"), tokenizer)
    assert model.config.attention_dropout == 0.25
    assert model.dtype == torch.bfloat16
    assert not model.training
    small = SmallModel(architecture="gpt2", hidden_size=16, num_layers=1, num_heads=2)
    assert load_model(ModelConfig(config=small), tokenizer).config.resid_pdrop == 0.0
    assert load_model(ModelConfig(config=small, dropout=None), tokenizer).config.resid_pdrop == 0.1


def test_tokenizer_comes_from_its_own_path_or_the_models(folder, tmp_path, tokenizer) -> None:
    assert load_tokenizer(ModelConfig(path=str(folder))).get_vocab() == tokenizer.get_vocab()
    train_word_tokenizer(["other words"]).save_pretrained(tmp_path / "words")
    assert len(load_tokenizer(ModelConfig(path=str(folder), tokenizer=str(tmp_path / "words")))) == 6


def test_what_is_no_model_is_one_line(folder, tmp_path, tokenizer) -> None:
    def failure(**settings):
        with pytest.raises(ModelError) as caught:
            load_model(ModelConfig(**settings), tokenizer)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    (tmp_path / "empty").mkdir()
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    assert failure(path=str(tmp_path / "gone")) == f"{tmp_path}/gone: no such folder"
    assert failure(path=str(tmp_path / "empty")).endswith("is no model folder, config.json is not in it")
    assert "names no base model" in failure(path=str(tmp_path / "adapter"))
    assert "is a file" in failure(path=str(folder / "config.json"))
    assert (
        failure() == "no model given: set model.path to a folder or hub id, or model.config to train one from scratch"
    )
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert failure(path=str(folder)).startswith(f"{folder}: cannot load a causal language model (")
    weights.unlink()
    assert "cannot load a causal language model" in failure(path=str(folder))


def test_missing_weights_are_fatal(folder, tokenizer) -> None:
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "num_hidden_layers": 2}))
    with pytest.raises(ModelError, match=r"lacks 9 weights, which .*first: model\.layers\.1\."):
        load_model(ModelConfig(path=str(folder)), tokenizer)


def test_unknown_hub_id_without_network(monkeypatch, tokenizer) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    settings = ModelConfig(path="exptilt-tests/no-such-model")
    with pytest.raises(ModelError, match="exptilt-tests/no-such-model: cannot load a causal language model"):
        load_model(settings, tokenizer)
    with pytest.raises(ModelError, match="exptilt-tests/no-such-model: cannot load a tokenizer"):
        load_tokenizer(settings)


def test_tokenizer_problems_are_named(folder, tmp_path, tokenizer) -> None:
    bigger = train_word_tokenizer(["the film was good . but long"])
    with pytest.raises(ModelError, match="the tokenizer has 11 tokens, the model only 9"):
        load_model(ModelConfig(path=str(folder)), bigger)
    with pytest.raises(ModelError, match="needs a tokenizer"):
        load_model(ModelConfig(config=SMALL))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="is no tokenizer folder"):
        load_tokenizer(ModelConfig(path=str(tmp_path / "empty")))
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path / "endless")
    with pytest.raises(ModelError, match="no end token"):
        load_tokenizer(ModelConfig(tokenizer=str(tmp_path / "endless")))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": 0}, "hidden_size must be >= 1, got 0"),
        ({"hidden_size": 10, "num_heads": 4}, "hidden_size must be a multiple of num_heads = 4, got 10"),
        ({"hidden_size": 12, "num_heads": 4}, "hidden_size / num_heads must be even for llama, got 3"),
        ({"num_key_value_heads": 3}, "num_key_value_heads must divide num_heads = 4, got 3"),
        ({"architecture": "gpt2", "num_key_value_heads": 2}, "num_key_value_heads is only for llama"),
    ],
)
def test_impossible_shapes_are_refused(settings, message) -> None:
    with pytest.raises(ConfigError, match=message):
        build(ModelConfig, Source(label="recipe.yaml", values={"config": settings}))


def test_model_settings_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="give either path or config, not both"):
        ModelConfig(path="here", config=SMALL)
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\), got 1"):
        ModelConfig(path="here", dropout=1.0)
