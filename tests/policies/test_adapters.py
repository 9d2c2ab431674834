"""Adapters: neutral at the start, switched off the base again, saved with the way to their base."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from exptilt.errors import ModelError
from exptilt.policies.adapters import AdapterOff, base_of, has_adapter, is_adapter, with_adapter
from exptilt.policies.divergence import sequence_kl
from exptilt.policies.fingerprint import adapter_fingerprint
from exptilt.policies.models import load_model
from exptilt.policies.policy import Policy
from exptilt.policies.saving import save_model
from exptilt.policies.scoring import score
from exptilt.settings.model_settings import AdapterConfig, ModelConfig


@pytest.fixture
def base(make_model, tmp_path):
    make_model("llama").save_pretrained(tmp_path / "base")
    return lambda: load_model(ModelConfig(path=str(tmp_path / "base")))


def moved(model):
    """The adapter as training might leave it."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)), alpha=0.1)
    return model


def test_a_new_adapter_changes_nothing_and_alone_is_trained(base, groups):
    expected = score(base(), groups).tokens()
    model = with_adapter(base(), AdapterConfig(rank=3))
    assert torch.equal(score(model, groups).tokens(), expected)
    Policy(model).backward(groups, lambda _, logps: logps.sum().sum())
    names = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert names
    assert all("lora_" in name for name in names)
    # Seven linear layers in each of two blocks, two matrices each; the head is not adapted.
    assert sum(parameter.requires_grad for parameter in model.parameters()) == 2 * 7 * 2
    # In and out of q, k, v, o (16 to 16) and of gate, up, down (16 and 24), times rank 3.
    assert model.num_parameters(only_trainable=True) == 2 * 3 * (4 * 32 + 3 * 40)


def test_seed_decides_the_random_half_and_nothing_else(base):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, again, other = (with_adapter(base(), AdapterConfig(), seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    differ = {name.split(".")[-3] for name in first if not torch.equal(first[name], other[name])}
    assert differ == {"lora_A"}


def test_switched_off_it_is_the_base_for_scores_and_divergences(base, groups):
    expected = score(base(), groups).tokens()
    model = moved(with_adapter(base(), AdapterConfig(rank=3)))
    trained = score(model, groups).tokens()
    assert (trained - expected).abs().max() > 0.05
    off = AdapterOff(model)
    assert torch.equal(score(off, groups).tokens(), expected)
    assert torch.equal(score(model, groups).tokens(), trained)  # and on again
    shared, apart = (sequence_kl(model, other, groups) for other in (off, base()))
    assert torch.equal(shared.kl, apart.kl)
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(off(input_ids=ids).logits, base()(input_ids=ids).logits)


@pytest.mark.parametrize("settings", [{"dora": True}, {"modules_to_save": ("lm_head",)}, {"targets": ("q_proj",)}])
def test_saved_and_loaded_it_scores_the_same(base, groups, tmp_path, settings):
    model = moved(with_adapter(base(), AdapterConfig(rank=2, **settings)))
    save_model(model, None, tmp_path / "adapter")
    assert is_adapter(tmp_path / "adapter")
    assert base_of(tmp_path / "adapter") == str(tmp_path / "base")
    loaded = load_model(ModelConfig(path=str(tmp_path / "adapter")))
    assert has_adapter(loaded)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    torch.testing.assert_close(score(loaded, groups).tokens(), score(model, groups).tokens(), rtol=0, atol=1e-6)


def test_training_goes_on_from_a_saved_adapter(base, groups, tmp_path):
    model = moved(with_adapter(base(), AdapterConfig(rank=2)))
    save_model(model, None, tmp_path / "adapter")
    again = with_adapter(base(), AdapterConfig(path=str(tmp_path / "adapter")))
    assert torch.equal(score(again, groups).tokens(), score(model, groups).tokens())
    assert any(parameter.requires_grad for parameter in again.parameters())


def test_the_scale_is_part_of_what_an_adapter_is(base):
    one, same, other = (
        with_adapter(base(), AdapterConfig(rank=2, alpha=alpha, dropout=dropout))
        for alpha, dropout in ((4, 0.0), (4, 0.1), (8, 0.0))
    )
    assert adapter_fingerprint(one) == adapter_fingerprint(same) != adapter_fingerprint(other)


def test_mistakes_are_one_line(base, tmp_path):
    with pytest.raises(ModelError, match=r"^adapter: Target modules .*wrong_name") as caught:
        with_adapter(base(), AdapterConfig(targets=("wrong_name",)))
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match=r"gone: no such folder"):
        with_adapter(base(), AdapterConfig(path=str(tmp_path / "gone")))
    with pytest.raises(ModelError, match=r"base: is no adapter folder"):
        with_adapter(base(), AdapterConfig(path=str(tmp_path / "base")))
    save_model(with_adapter(base(), AdapterConfig(rank=2)), None, tmp_path / "adapter")
    shutil.move(tmp_path / "base", tmp_path / "elsewhere")
    with pytest.raises(ModelError, match=r"its base model .*base is not there; put it back"):
        load_model(ModelConfig(path=str(tmp_path / "adapter")))
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": None}))
    with pytest.raises(ModelError, match="names no base model"):
        load_model(ModelConfig(path=str(tmp_path / "adapter")))


@pytest.mark.filterwarnings("ignore:.*gemv_4bit")
def test_gradients_beside_4_bit_weights_are_those_beside_the_same_weights_written_out(make_model, groups, tmp_path):
    """Also after scoring without a gradient, for which bitsandbytes has a layout of its own on CPUs."""
    from bitsandbytes.functional import dequantize_4bit

    make_model("llama", hidden_size=64, intermediate_size=64).save_pretrained(tmp_path / "base")
    four = load_model(ModelConfig(path=str(tmp_path / "base"), quantize="nf4"))
    plain = load_model(ModelConfig(path=str(tmp_path / "base")))
    num_quantized = 0
    for module, other in zip(four.modules(), plain.modules(), strict=True):
        if hasattr(module, "quant_state") or hasattr(getattr(module, "weight", None), "quant_state"):
            other.weight.data.copy_(dequantize_4bit(module.weight, module.weight.quant_state))
            num_quantized += 1
    assert num_quantized == 2 * 7
    gradients = []
    for base in (four, plain):
        model = moved(with_adapter(base, AdapterConfig(rank=2)))
        score(model, groups)
        with torch.no_grad():
            score(model.eval(), groups)
        Policy(model.train()).backward(groups, lambda _, logps: logps.sum().sum())
        gradients.append({name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"alpha": 0.0}, {"dropout": 1.0}, {"targets": ()}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AdapterConfig(**wrong)


def test_all_linear_is_the_text_model(tmp_path, groups):
    """A model that also sees has linear layers in its eye, which no text trains."""
    from transformers import AutoModelForCausalLM, Gemma3Config

    text = {
        "vocab_size": 53,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    text |= {"num_key_value_heads": 1, "head_dim": 8, "sliding_window": 8}
    eye = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28}
    config = Gemma3Config(text_config=text, vision_config=eye | {"patch_size": 14}, mm_tokens_per_image=4)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "sees")
    model = with_adapter(load_model(ModelConfig(path=str(tmp_path / "sees"))), AdapterConfig(rank=2))
    adapted = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(adapted) == 2 * 7 * 2
    assert not [name for name in adapted if "vision" in name or "lm_head" in name]
    save_model(moved(model), None, tmp_path / "adapter")
    again = load_model(ModelConfig(path=str(tmp_path / "adapter")))
    torch.testing.assert_close(score(again, groups).tokens(), score(model, groups).tokens(), rtol=0, atol=1e-6)
