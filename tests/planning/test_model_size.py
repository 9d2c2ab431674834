"""Weights counted against hand sums and against real models; what backward keeps against a real forward pass."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen3MoeConfig

from exptilt.data.groups import Completion, Group
from exptilt.planning.model_size import kept_bytes, model_size
from exptilt.policies.engine import tiles
from exptilt.policies.engine.attention import NAME
from exptilt.policies.engine.forward import packed_states
from exptilt.policies.engine.packing import pack
from exptilt.policies.scoring import score
from exptilt.settings.model_settings import AdapterConfig

SHAPE = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2, "vocab_size": 10}
TINY = LlamaConfig(num_hidden_layers=2, **SHAPE)


def groups(count):
    def completion(length):
        return Completion(np.zeros(length, np.int32), np.ones(length, np.bool_))

    return [
        Group(id="a", prompt=np.zeros(6, np.int32), completions=(completion(5), completion(4))) for _ in range(count)
    ]


def test_a_llamas_weights_by_hand():
    size = model_size(TINY)
    blocks, norms = 2 * (4 * 8 * 8 + 3 * 8 * 16), 2 * 2 * 8 + 8
    assert (size.body, size.head, size.total) == (blocks, 80, blocks + norms + 80 + 80)
    assert (size.trained, size.adapter, size.layers, size.attention) == (size.total, 0, 2, 8)
    assert (size.body_trained, size.head_trained) == (True, True)


def test_a_shared_embedding_counts_once_and_is_the_head():
    size = model_size(LlamaConfig(num_hidden_layers=2, tie_word_embeddings=True, **SHAPE))
    assert (size.total, size.head) == (1480 - 80, 80)


def test_an_adapters_weights_by_hand():
    size = model_size(TINY, AdapterConfig(rank=2))
    each = 2 * (4 * (8 + 8) + 2 * (8 + 16) + (16 + 8))
    assert (size.adapter, size.trained, size.total) == (2 * each, 2 * each, 1480 + 2 * each)
    assert (size.body, size.body_trained, size.head_trained) == (1280, False, False)


def test_grouped_heads_and_other_families():
    grouped = model_size(LlamaConfig(num_hidden_layers=1, num_key_value_heads=1, **SHAPE))
    assert grouped.body == 2 * 8 * 8 + 2 * 8 * 4 + 3 * 8 * 16
    gpt2 = model_size(
        GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=10, n_positions=16, bos_token_id=0, eos_token_id=0)
    )
    assert gpt2.body == 12 * 8 * 8  # positions are looked up, not multiplied with


def test_of_experts_those_in_use_count():
    shape = SHAPE | {"num_key_value_heads": 2, "head_dim": 4, "num_hidden_layers": 1}
    size = model_size(Qwen3MoeConfig(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=6, **shape))
    assert size.body == 4 * 8 * 8 + 4 * 8 + 2 * 3 * 8 * 6
    assert size.total - size.body == 2 * 3 * 8 * 6 + 80 + 80 + 3 * 8 + 2 * 4


def really_kept(architecture, rows, products):
    """Bytes that a real forward pass saves."""
    model = AutoModelForCausalLM.from_config(architecture)
    model.set_attn_implementation(NAME)
    model.train()
    own = {weight.data_ptr() for weight in model.parameters()}
    kept = {}

    def look(tensor):
        if tensor.data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = (tensor.untyped_storage().nbytes(), tensor)
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(look, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=products == torch.bfloat16),
    ):
        states = packed_states(model, pack(rows))
    del states
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("products", [torch.float32, torch.bfloat16])
def test_what_backward_keeps_extends_from_two_blocks_and_few_rows(products):
    shape = SHAPE | {"hidden_size": 32, "intermediate_size": 64}
    architecture = LlamaConfig(num_hidden_layers=5, **shape)
    kept = kept_bytes(architecture, groups(8), adapter=None, weights=torch.float32, products=products)
    assert kept.counted
    real = really_kept(architecture, groups(24), products)
    assert kept.of(24 * 13, 5) == pytest.approx(real, rel=0.03)


def test_bfloat16_products_keep_less_of_a_token_and_a_copy_of_the_weights():
    architecture = LlamaConfig(num_hidden_layers=2, **SHAPE | {"hidden_size": 64, "intermediate_size": 128})
    full, half = (
        kept_bytes(architecture, groups(4), adapter=None, weights=torch.float32, products=products)
        for products in (torch.float32, torch.bfloat16)
    )
    assert half.block < full.block
    assert full.fixed == pytest.approx(0, abs=100)
    assert half.fixed == pytest.approx(2 * model_size(architecture).body, rel=0.02)


def test_an_architecture_that_fake_tensors_cannot_run_is_estimated_and_said_so():
    shape = SHAPE | {"num_key_value_heads": 2, "head_dim": 4, "num_hidden_layers": 3}
    experts = Qwen3MoeConfig(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=6, **shape)
    kept = kept_bytes(experts, groups(2), adapter=None, weights=torch.float32, products=torch.float32)
    assert not kept.counted
    assert kept.of(10, 3) == 10 * (4 * 8 + 3 * 4 * (14 * 8 + 5 * 2 * 6))


def test_counting_on_fake_tensors_leaves_nothing_fake_behind():
    """The same rows scored before and after: what the engine keeps for later must not come from the count."""
    shape = LlamaConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=50)
    rows = [
        Group(
            id=f"row {size}",
            prompt=np.arange(3, dtype=np.int32),
            completions=tuple(Completion(np.arange(size, dtype=np.int32), np.ones(size, bool)) for _ in range(2)),
        )
        for size in range(2, 41)
    ]
    model = AutoModelForCausalLM.from_config(shape)
    before = score(model, rows).tokens()
    tiles._above.cache_clear()
    kept_bytes(shape, rows, adapter=None, weights=torch.float32, products=torch.float32)
    assert torch.equal(score(model, rows).tokens(), before)
