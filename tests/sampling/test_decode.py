"""Prompts held once give the logits of a model's own cache, whatever dies on the way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import PromptTuningConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from exptilt.policies.adapters import AdapterOff, with_adapter
from exptilt.sampling import prompt_cache, shared_decoding
from exptilt.sampling.decode import read_prompts
from exptilt.sampling.generate import sample
from exptilt.sampling.padded_decoding import PaddedState
from exptilt.sampling.sampling_law import SamplingLaw
from exptilt.sampling.shared_decoding import SharedState, shares_prompts
from exptilt.settings.model_settings import AdapterConfig

VOCABULARY = 31


def llama(**changes):
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    settings = {"vocab_size": VOCABULARY, "max_position_embeddings": 256, "initializer_range": 0.6} | shape | changes
    return LlamaForCausalLM(LlamaConfig(**settings)).eval()


def gpt2():
    torch.manual_seed(1)
    settings = GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=256, initializer_range=0.6)
    return GPT2LMHeadModel(settings).eval()


def mistral_with_a_window():
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    return MistralForCausalLM(
        MistralConfig(vocab_size=VOCABULARY, sliding_window=4, num_key_value_heads=2, **shape)
    ).eval()


def prompts_of(*lengths):
    draw = np.random.default_rng(0)
    return [draw.integers(0, VOCABULARY, length, dtype=np.int32) for length in lengths]


@pytest.mark.parametrize(
    "build", [llama, gpt2, lambda: llama(num_key_value_heads=2), lambda: llama(num_key_value_heads=1)],
    ids=["llama", "gpt2", "two key heads", "one key head"],
)  # fmt: skip
@pytest.mark.parametrize("lengths", [(3, 40, 45, 41, 7, 9), (5, 5, 5), (80,)], ids=["buckets", "equal", "one"])
@pytest.mark.parametrize("samples", [1, 5])
def test_logits_are_those_of_the_models_own_cache_while_rows_end(build, lengths, samples, monkeypatch):
    monkeypatch.setattr(prompt_cache, "_GROWTH", 4)
    monkeypatch.setattr(shared_decoding, "_GROWTH", 3)
    monkeypatch.setattr(shared_decoding, "_READ_AT_ONCE", 50)
    model = build().double()
    assert shares_prompts(model)
    prompts, draw = prompts_of(*lengths), np.random.default_rng(1)
    prompt_of = np.repeat(np.arange(len(lengths)), samples).tolist()
    states = [kind(model, prompts, prompt_of) for kind in (SharedState, PaddedState)]
    with torch.no_grad():
        for _ in range(14):
            mine, theirs = states
            torch.testing.assert_close(mine.logits, theirs.logits, atol=1e-10, rtol=1e-10)
            assert torch.equal(mine.seen, theirs.seen)
            count = len(mine.logits)
            if count > 1 and draw.random() < 0.4:
                left = torch.as_tensor(np.flatnonzero(draw.random(count) < 0.7))
                if len(left):
                    for state in states:
                        state.select(left)
            tokens = torch.as_tensor(draw.integers(0, VOCABULARY, len(mine.logits)))
            for state in states:
                state.advance(tokens)


def test_rows_need_no_order():
    model = llama().double()
    assert shares_prompts(model)
    prompts = prompts_of(4, 30, 6)
    rows = [2, 0, 1, 0, 2, 2, 1]
    shared, padded = SharedState(model, prompts, rows), PaddedState(model, prompts, rows)
    with torch.no_grad():
        for state in (shared, padded):
            state.advance(torch.arange(7))
            state.select(torch.tensor([6, 0, 3]))
            state.advance(torch.arange(3))
    torch.testing.assert_close(shared.logits, padded.logits, atol=1e-10, rtol=1e-10)


def test_a_model_with_windows_keeps_its_own_cache():
    model = mistral_with_a_window()
    assert not shares_prompts(model)
    assert isinstance(read_prompts(model, prompts_of(9), [0]), PaddedState)


def test_a_layer_that_is_wrong_is_noticed_and_the_models_own_cache_taken(monkeypatch):
    attend = prompt_cache.PromptCache.attend
    monkeypatch.setattr(prompt_cache.PromptCache, "attend", lambda *inputs: attend(*inputs) * 1.02)
    model = llama()
    before = model.config._attn_implementation
    assert not shares_prompts(model)
    assert model.config._attn_implementation == before


def test_an_adapter_that_is_switched_off_decodes_as_the_base():
    base = llama().double()
    assert shares_prompts(base)
    prompts = prompts_of(5, 12)
    expected = SharedState(base, prompts, [0, 1, 1])
    with torch.no_grad():
        expected.advance(torch.tensor([3, 4, 5]))
    adapted = with_adapter(base, AdapterConfig(rank=2)).double().eval()
    with torch.no_grad():
        for weight in adapted.parameters():
            if weight.requires_grad:
                weight.add_(0.5)
        off, on = (SharedState(model, prompts, [0, 1, 1]) for model in (AdapterOff(adapted), adapted))
        for state in (off, on):
            state.advance(torch.tensor([3, 4, 5]))
    torch.testing.assert_close(off.logits, expected.logits)
    assert (on.logits - expected.logits).abs().max() > 0.1


def test_a_small_model_in_half_precision_is_tried_on_a_copy_with_its_adapter_off_too():
    base = llama()
    for model in (base.bfloat16(), AdapterOff(with_adapter(llama().bfloat16(), AdapterConfig(rank=2)).eval())):
        assert shares_prompts(model)
        law = SamplingLaw(max_new_tokens=6, eos_ids=(2,))
        drawn = sample(model, [2], prompts_of(3, 9), num_samples=2, law=law, with_logps=True)
        assert all(np.isfinite(one.logps).all() for one in drawn)


def test_an_adapter_of_prompts_keeps_the_models_own_cache():
    settings = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    assert not shares_prompts(get_peft_model(llama(), settings).eval())


def test_samples_of_double_precision_do_not_depend_on_the_batch():
    model = llama().double()
    law = SamplingLaw(max_new_tokens=30, eos_ids=(2,))
    prompts = prompts_of(3, 60, 14, 5, 61)
    whole = sample(model, [2], prompts, num_samples=6, law=law, seed=1, with_logps=True)
    for size in (1, 4, 11):
        part = sample(model, [2], prompts, num_samples=6, law=law, seed=1, batch_size=size, with_logps=True)
        assert [one.ids.tolist() for one in part] == [one.ids.tolist() for one in whole]
        for one, other in zip(part, whole, strict=True):
            np.testing.assert_allclose(one.logps, other.logps, atol=1e-6)
