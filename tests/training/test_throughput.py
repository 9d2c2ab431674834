"""Floating point operations of a token, counted by hand; speeds to compare with."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from exptilt.data.groups import Completion, Group
from exptilt.policies.adapters import with_adapter
from exptilt.processes.memory import peak_memory
from exptilt.settings.model_settings import AdapterConfig
from exptilt.training import throughput
from exptilt.training.throughput import (
    TIMINGS,
    Work,
    attention_operations,
    measured_speed,
    operations_per_token,
    weight_operations,
    work_of,
)


def group(prompt, *lengths):
    completions = tuple(Completion(np.zeros(one, np.int32), np.ones(one, bool)) for one in lengths)
    return Group(id="r", prompt=np.zeros(prompt, np.int32), completions=completions)


def llama(tied, heads=2, **other):
    shape = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 3, "num_attention_heads": heads}
    return LlamaForCausalLM(LlamaConfig(vocab_size=23, tie_word_embeddings=tied, **shape, **other))


@pytest.mark.parametrize("tied", [True, False])
def test_matrices_count_six_where_they_are_trained_and_four_where_they_are_frozen(tied):
    """Per layer q, k, v, o of 8 x 8 and three of 8 x 12; the head 23 x 8; norms and the look-up are no products."""
    model = llama(tied)
    layer, head = 4 * 64 + 3 * 96, 23 * 8
    assert weight_operations(model) == (6 * 3 * layer, 6 * head)
    for parameter in model.model.layers[0].parameters():
        parameter.requires_grad_(False)
    assert weight_operations(model) == (6 * 2 * layer + 4 * layer, 6 * head)


def test_an_adapter_adds_its_own_matrices():
    base = llama(False)
    blocks, head = (part * 4 / 6 for part in weight_operations(base))
    adapted = with_adapter(base, AdapterConfig(rank=2, targets=("q_proj",)))
    assert weight_operations(adapted) == (blocks + 3 * 6 * (2 * 8 + 8 * 2), head)


def test_of_experts_those_in_use_count():
    shape = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 3, "num_attention_heads": 2}
    model = MixtralForCausalLM(
        MixtralConfig(vocab_size=23, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=1, **shape)
    )
    blocks, _ = weight_operations(model)
    assert blocks == 6 * 3 * (4 * 64 + 4 * 8 + 3 * 96)  # q, k, v, o; the router; one expert


def test_attention_reaches_as_far_as_the_prompt_and_the_own_completion():
    """Prompt of 3: 1 + 2 + 3 positions. Completions of 3 and 2 behind it, whose last tokens are not fed: 4 + 5 and 4."""
    assert attention_operations(llama(False), [group(3, 3, 2)]) == 12 * 3 * 8 * 19
    wide = llama(False, heads=2, head_dim=16)
    assert attention_operations(wide, [group(3, 3, 2)]) == 12 * 3 * 32 * 19
    assert attention_operations(llama(False), []) == 0


def test_a_window_and_layers_that_do_not_attend_reach_less_far():
    """A window of 2: 1 + 2 + 2 for the prompt, and 2 + 2 and 2 behind it."""
    settings = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 3}
    kinds = ["full_attention", "sliding_attention", "linear_attention"]
    config = SimpleNamespace(**settings, sliding_window=2, layer_types=kinds, get_text_config=lambda: config)
    assert attention_operations(SimpleNamespace(config=config), [group(3, 3, 2)]) == 12 * 8 * (19 + 11)


def test_logits_are_needed_of_tokens_that_count_alone():
    """Eight unique tokens; six are fed, and three of a multi-turn completion count."""
    model = llama(False)
    some = Completion(np.zeros(3, np.int32), np.array([False, True, True]))
    row = Group(
        id="r", prompt=np.zeros(4, np.int32), completions=(some, Completion(np.zeros(1, np.int32), np.ones(1, bool)))
    )
    blocks, head = weight_operations(model)
    expected = (blocks * 6 + head * 3 + attention_operations(model, [row])) / 8
    assert operations_per_token(model, [row]) == pytest.approx(expected)
    assert operations_per_token(model, []) == 0


def test_a_share_is_what_was_needed_over_what_could_be_done():
    assert Work("matmul_floor_share", per_token=50.0, per_second=1000.0).share(10.0) == 0.5


def test_on_a_cpu_it_is_a_matrix_product_measured_here(monkeypatch):
    monkeypatch.setattr(throughput, "measured_speed", lambda precision: 7.0)
    model = llama(False)
    work = work_of(model, [group(3, 2, 1)], torch.float32, num_processes=2)
    blocks, head = weight_operations(model)
    assert work == Work("matmul_floor_share", (blocks * 4 + head * 3 + 12 * 3 * 8 * 10) / 6, 14.0)


def test_the_measured_speed_is_possible():
    assert 1e8 < measured_speed(torch.float32) < 1e14


@pytest.mark.parametrize(
    ("name", "precision", "peak"),
    [
        ("NVIDIA H200", torch.bfloat16, 989e12),
        ("NVIDIA H100 PCIe", torch.bfloat16, 756e12),
        ("NVIDIA A100-SXM4-80GB", torch.bfloat16, 312e12),
        ("NVIDIA L40S", torch.bfloat16, 362e12),
        ("NVIDIA L4", torch.bfloat16, 121e12),
        ("NVIDIA H100 80GB HBM3", torch.float32, None),
        ("Something New", torch.bfloat16, None),
    ],
)
def test_on_a_gpu_it_is_the_data_sheet(monkeypatch, name, precision, peak):
    class OnGpu(nn.Module):
        def parameters(self, recurse=True):
            return iter([torch.empty(0, device="meta")])

    monkeypatch.setattr(throughput, "operations_per_token", lambda model, groups: 6.0)
    monkeypatch.setattr(throughput, "_name", lambda device: name)
    found = work_of(OnGpu(), [], precision)
    assert found == (None if peak is None else Work("model_flop_utilisation", 6.0, peak))


def test_timings_name_what_is_written():
    assert {f"train/{name}" for name in peak_memory()} <= set(TIMINGS)
