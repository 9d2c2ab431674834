"""What a run starts from where `model.path` is an adapter, or weights in few bits."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from peft import AutoPeftModelForCausalLM, IA3Config, LoKrConfig, LoraConfig, OFTConfig, get_peft_model

from exptilt.errors import ModelError
from exptilt.policies.adapters import AdapterOff, base_of, with_adapter
from exptilt.policies.fingerprint import identity_of
from exptilt.policies.models import load_model
from exptilt.policies.outgoing import check_outgoing
from exptilt.policies.policy import Policy
from exptilt.policies.saving import save_model
from exptilt.policies.scoring import score
from exptilt.policies.stacked import why_apart
from exptilt.policies.start import load_start, why_merged, write_merged_base
from exptilt.policies.tokenizers import train_word_tokenizer
from exptilt.settings.model_settings import AdapterConfig, ModelConfig


def moved(model, seed: int = 1):
    """The adapter as training might leave it."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model


@pytest.fixture
def base(make_model, tmp_path):
    make_model("llama", tie_word_embeddings=True).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture(params=[{}, {"targets": ("q_proj", "up_proj"), "alpha": 3.0}, {"modules_to_save": ("lm_head",)}])
def first(request, base, tmp_path):
    """An adapter as supervised fine-tuning leaves it."""
    model = moved(with_adapter(load_model(ModelConfig(path=str(base))), AdapterConfig(rank=2, **request.param)))
    save_model(model, None, tmp_path / "sft")
    return tmp_path / "sft"


def test_a_new_adapter_starts_from_the_one_that_is_there(first, base, groups):
    sft = score(load_model(ModelConfig(path=str(first))), groups).tokens()
    plain = score(load_model(ModelConfig(path=str(base))), groups).tokens()
    assert (sft - plain).abs().max() > 0.05
    settings = AdapterConfig(rank=3)
    policy = with_adapter(load_start(ModelConfig(path=str(first)), settings).model, settings)
    torch.testing.assert_close(score(policy, groups).tokens(), sft, rtol=0, atol=1e-5)
    reference = AdapterOff(policy)
    moved(policy, seed=2)
    assert (score(policy, groups).tokens() - sft).abs().max() > 0.05
    torch.testing.assert_close(score(reference, groups).tokens(), sft, rtol=0, atol=1e-5)
    Policy(policy).backward(groups, lambda _, logps: logps.sum().sum())
    trained = {name for name, weight in policy.named_parameters() if weight.grad is not None}
    assert trained
    assert all(".default." in name for name in trained)


@pytest.mark.filterwarnings("ignore")  # peft's own, of what it is asked here without exptilt
@pytest.mark.parametrize("new", [{}, {"targets": ("v_proj",)}, {"modules_to_save": ("lm_head",)}])
def test_saved_both_are_one_adapter_that_anybody_loads(first, base, groups, tmp_path, new):
    settings = AdapterConfig(rank=3, **new)
    policy = moved(with_adapter(load_start(ModelConfig(path=str(first)), settings).model, settings), seed=2)
    expected = score(policy, groups).tokens()
    check_outgoing(policy)
    save_model(policy, None, tmp_path / "out")
    assert base_of(tmp_path / "out") == str(base)
    again = score(load_model(ModelConfig(path=str(tmp_path / "out"))), groups).tokens()
    torch.testing.assert_close(again, expected, rtol=0, atol=1e-5)
    others = score(AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out").eval(), groups).tokens()
    torch.testing.assert_close(others, expected, rtol=0, atol=1e-5)


def test_without_a_new_adapter_it_is_merged_and_everything_trained(first, groups, tmp_path):
    sft = score(load_model(ModelConfig(path=str(first))), groups).tokens()
    start = load_start(ModelConfig(path=str(first)), None)
    assert all(parameter.requires_grad for parameter in start.model.parameters())
    torch.testing.assert_close(score(start.model, groups).tokens(), sft, rtol=0, atol=1e-4)
    check_outgoing(start.model)
    save_model(start.model, None, tmp_path / "out", dtype=start.dtype)
    again = load_model(ModelConfig(path=str(tmp_path / "out")))
    torch.testing.assert_close(score(again, groups).tokens(), sft, rtol=0, atol=1e-4)


def test_the_same_start_has_the_same_identity_and_another_scale_another(first):
    settings = AdapterConfig()
    one, same = (identity_of(load_start(ModelConfig(path=str(first)), settings).model) for _ in range(2))
    assert one == same
    path = first / "adapter_config.json"
    known = json.loads(path.read_text())
    path.write_text(json.dumps(known | {"lora_alpha": known["lora_alpha"] * 2}))
    assert identity_of(load_start(ModelConfig(path=str(first)), settings).model) != one


def test_going_on_with_an_adapter_needs_no_second_one(first, base, groups):
    settings = AdapterConfig(path=str(first))
    start = load_start(ModelConfig(path=str(first)), settings)
    plain = score(load_model(ModelConfig(path=str(base))), groups).tokens()
    assert torch.equal(score(start.model, groups).tokens(), plain)


def test_what_one_adapter_could_not_hold_is_refused(base, tmp_path):
    model = moved(with_adapter(load_model(ModelConfig(path=str(base))), AdapterConfig(rank=2, dora=True)))
    save_model(model, None, tmp_path / "dora")
    settings = AdapterConfig()
    with pytest.raises(ModelError, match="DoRA's magnitudes"):
        with_adapter(load_start(ModelConfig(path=str(tmp_path / "dora")), settings).model, settings)
    load_start(ModelConfig(path=str(tmp_path / "dora")), None)  # merged it can be


ODD = {
    "PiSSA": LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights="pissa"),
    "OLoRA": LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights="olora"),
    "biases": LoraConfig(r=2, target_modules=["q_proj"], bias="all"),
    "rows of embeddings": LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices=[3, 4]),
    "LoKr": LoKrConfig(r=2, target_modules=["q_proj"]),
    "OFT": OFTConfig(r=0, oft_block_size=2, target_modules=["q_proj"]),
    "IA3": IA3Config(target_modules=["q_proj", "down_proj"], feedforward_modules=["down_proj"]),
}


@pytest.mark.filterwarnings("ignore")  # peft's own
@pytest.mark.parametrize("kind", ODD)
def test_a_kind_that_is_no_sum_is_merged_into_a_base_on_which_the_new_adapter_loads(base, groups, tmp_path, kind):
    """PiSSA and OLoRA change the base when they are loaded: saved side by side they were up to 0.1 nats off, silently."""
    made = moved(get_peft_model(load_model(ModelConfig(path=str(base))), replace(ODD[kind], task_type="CAUSAL_LM")))
    made.save_pretrained(tmp_path / "odd")
    train_word_tokenizer(["a b"]).save_pretrained(tmp_path / "odd")
    settings, new = ModelConfig(path=str(tmp_path / "odd")), AdapterConfig(rank=3)
    expected = score(load_model(settings), groups).tokens()
    assert why_merged(settings, new)
    with pytest.raises(ModelError, match="cannot be put beside"):
        with_adapter(load_start(settings, new).model, new)
    assert write_merged_base(settings, tmp_path / "merged") < 1e-5
    policy = with_adapter(load_start(ModelConfig(path=str(tmp_path / "merged")), new).model, new)
    torch.testing.assert_close(score(policy, groups).tokens(), expected, rtol=0, atol=1e-5)
    trained = score(moved(policy, seed=2), groups).tokens()
    save_model(policy, None, tmp_path / "out")
    again = score(load_model(ModelConfig(path=str(tmp_path / "out"))), groups).tokens()
    torch.testing.assert_close(again, trained, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"layer_replication": [[0, 1], [0, 1]]}, "layer_replication"),
        ({"lora_bias": True}, "biases of its own"),
        ({"target_parameters": ["q_proj.weight"]}, "target_parameters"),
        ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens"),
    ],
)
def test_only_settings_that_are_known_to_be_a_sum_pass(settings, word):
    assert word in why_apart(LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"], **settings))
    plain = LoraConfig(r=4, lora_alpha=3, target_modules=["q_proj"], use_rslora=True, rank_pattern={"q_proj": 2})
    assert why_apart(plain) == ""
    assert why_apart(plain, dora=True)


def test_an_adapter_of_another_model_is_refused_with_both_shapes(make_model, base, tmp_path):
    make_model("llama", hidden_size=32).save_pretrained(tmp_path / "wide")
    model = with_adapter(load_model(ModelConfig(path=str(tmp_path / "wide"))), AdapterConfig(rank=2))
    save_model(model, None, tmp_path / "sft")
    path = tmp_path / "sft" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": str(base)}))
    with pytest.raises(
        ModelError, match=r"tensors do not fit, first .* is \(.*32.*\) in the file, \(.*16.*\) in the model"
    ) as caught:
        load_model(ModelConfig(path=str(tmp_path / "sft")))
    assert len(str(caught.value)) < 400


def test_an_adapter_with_more_layers_than_the_base_is_refused(make_model, base, tmp_path):
    make_model("llama", num_hidden_layers=3).save_pretrained(tmp_path / "deep")
    save_model(
        with_adapter(load_model(ModelConfig(path=str(tmp_path / "deep"))), AdapterConfig(rank=2)),
        None,
        tmp_path / "sft",
    )
    path = tmp_path / "sft" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": str(base)}))
    with pytest.raises(ModelError, match=r"holds base_model\.model\.model\.layers\.2\..*no place for"):
        load_model(ModelConfig(path=str(tmp_path / "sft")))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bits", [4, 8])
def test_a_checkpoint_in_few_bits_trains_under_an_adapter(make_model, groups, tmp_path, bits):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    make_model("llama", hidden_size=64, intermediate_size=64).save_pretrained(tmp_path / "full")
    few = AutoModelForCausalLM.from_pretrained(
        tmp_path / "full",
        quantization_config=BitsAndBytesConfig(**{f"load_in_{bits}bit": True}),
        device_map={"": "cpu"},
    )
    few.save_pretrained(tmp_path / "few")
    where = ModelConfig(path=str(tmp_path / "few"))
    with pytest.raises(ModelError, match="in few bits already and cannot be trained themselves; add an adapter"):
        load_start(where, None)
    settings = AdapterConfig(rank=2)
    policy = moved(with_adapter(load_start(where, settings).model, settings))
    check_outgoing(policy)
    Policy(policy).backward(groups, lambda _, logps: logps.sum().sum())
    assert all(one.grad is not None and one.grad.abs().sum() > 0 for one in policy.parameters() if one.requires_grad)
    save_model(policy.eval(), None, tmp_path / "out")
    again = load_model(ModelConfig(path=str(tmp_path / "out")))
    with torch.no_grad():
        torch.testing.assert_close(score(again, groups).tokens(), score(policy, groups).tokens(), rtol=0, atol=1e-3)
