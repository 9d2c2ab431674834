from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from exptilt.data.groups import Completion, Group
from exptilt.errors import DataError
from exptilt.policies.engine import head
from exptilt.policies.engine.self_check import packable
from exptilt.policies.scoring import score, score_all

EXPERTS = {"num_key_value_heads": 2, "num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
ARCHITECTURES = {
    "llama": {"num_key_value_heads": 2},
    "qwen2": {"num_key_value_heads": 2, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 8},
    "mistral": {"num_key_value_heads": 2, "sliding_window": 5},
    "gemma2": {
        "num_key_value_heads": 2,
        "head_dim": 8,
        "sliding_window": 5,
        "attn_logit_softcapping": 1.0,
        "final_logit_softcapping": 1.0,
        "query_pre_attn_scalar": 8,
    },
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "gpt_neox": {},
    "phi": {},
    "gemma3_text": {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 5, "query_pre_attn_scalar": 8},
    "phi3": {"num_key_value_heads": 2},
    "olmo2": {"num_key_value_heads": 2},
    "starcoder2": {"num_key_value_heads": 2, "sliding_window": 5},
    "cohere2": {"num_key_value_heads": 2, "sliding_window": 5},
    "stablelm": {"num_key_value_heads": 2},
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 8},
    "qwen3_moe": {**EXPERTS, "head_dim": 8},
    "cohere": {"num_key_value_heads": 2, "logit_scale": 0.3},
    "granite": {"num_key_value_heads": 2, "logits_scaling": 3.0},
    "mixtral": {"num_key_value_heads": 2, "num_local_experts": 3},
    "gpt_oss": {
        "num_key_value_heads": 2,
        "head_dim": 8,
        "sliding_window": 5,
        "num_local_experts": 3,
        "num_experts_per_tok": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    },
}


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_packed_equals_separate_forward_passes(kind, make_model, groups, separate, targets_of) -> None:
    model, plain = make_model(kind, **ARCHITECTURES[kind]), make_model(kind, **ARCHITECTURES[kind])
    if kind in ("phi", "gpt_neox", "starcoder2"):
        for one in (model, plain):
            for name, parameter in one.named_parameters():
                if name.endswith("bias"):
                    torch.nn.init.constant_(parameter, 0.3)
                    parameter.data[::2] = -0.2
    plain.set_attn_implementation("eager")
    targets = targets_of(groups)
    expected = separate(plain, groups).gather(1, targets[:, None]).squeeze(1)
    found = score(model, groups)
    assert packable(model)
    torch.testing.assert_close(found.tokens(), expected, rtol=0, atol=1e-5)
    assert found.lengths.tolist() == [one.length for group in groups for one in group.completions]
    weights = torch.randn(len(targets), generator=torch.Generator().manual_seed(1)) / len(targets)
    (found.tokens() * weights).sum().backward()
    (expected * weights).sum().backward()
    for (name, one), other in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        if one.grad is not None:
            torch.testing.assert_close(
                one.grad, other.grad, rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
            )


def test_chunks_change_neither_values_nor_gradients(make_model, groups, monkeypatch) -> None:
    model = make_model("llama")
    names = ("entropy", "log_sum_squares")

    def run():
        model.zero_grad()
        found = score(model, groups, byproducts=names)
        (found.tokens().mean() + found.entropy.mean() + found.log_sum_squares.mean()).backward()
        return found, [parameter.grad.clone() for parameter in model.parameters()]

    whole, gradients = run()
    sizes = []
    real = head.log_softmax
    monkeypatch.setattr(head, "log_softmax", lambda logits: (sizes.append(logits.numel()), real(logits))[1])
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", 53 * 7)
    monkeypatch.setattr(head, "_CHUNK_ROWS", 1)
    cut, cut_gradients = run()
    assert max(sizes) <= 53 * 7
    torch.testing.assert_close(cut.tokens(), whole.tokens(), rtol=0, atol=1e-6)
    torch.testing.assert_close(cut.entropy, whole.entropy, rtol=0, atol=1e-6)
    for one, other in zip(cut_gradients, gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_byproducts_are_their_formulas(make_model, groups, separate) -> None:
    model, reference = make_model("llama"), make_model("gpt2", **ARCHITECTURES["gpt2"])
    found = score(model, groups, byproducts=["entropy", "log_sum_squares", "divergence"], reference=reference)
    log_p, log_q = separate(model, groups).double(), separate(reference, groups).double()
    torch.testing.assert_close(found.entropy.double(), -(log_p.exp() * log_p).sum(1), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.log_sum_squares.double(), log_p.exp().square().sum(1).log(), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.divergence.double(), (log_q.exp() * (log_q - log_p)).sum(1), rtol=0, atol=1e-5)
    found.divergence.sum().backward()
    own = [parameter.grad for parameter in model.parameters()]
    wanted = torch.autograd.grad((log_q.exp().detach() * -separate(model, groups)).sum(), list(model.parameters()))
    for one, other in zip(own, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert all(parameter.grad is None for parameter in reference.parameters())


def test_unknown_and_incomplete_byproducts_are_refused(make_model, groups) -> None:
    with pytest.raises(ValueError, match="unknown byproduct 'entropie'; known: entropy, log_sum_squares, divergence"):
        score(make_model("llama"), groups, byproducts=["entropie"])
    with pytest.raises(ValueError, match="needs the reference model"):
        score(make_model("llama"), groups, byproducts=["divergence"])


def test_batching_and_order_change_nothing(make_model, groups) -> None:
    model = make_model("qwen3", **ARCHITECTURES["qwen3"])
    together = score(model, groups).detach()
    for max_tokens in (1, 40, 10_000):
        parts = score_all(model, groups, max_tokens=max_tokens)
        torch.testing.assert_close(torch.cat([part.tokens() for part in parts]), together.tokens(), rtol=0, atol=1e-5)
        assert [len(part) for part in parts] == [len(group.completions) for group in groups]
    backwards = score_all(model, groups[::-1], max_tokens=60)[::-1]
    torch.testing.assert_close(torch.cat([part.tokens() for part in backwards]), together.tokens(), rtol=0, atol=1e-5)


def test_score_all_turns_dropout_off_and_on_again(make_model, groups) -> None:
    model = make_model("gpt2", **ARCHITECTURES["gpt2"]).train()
    model.transformer.h[0].eval()
    first, second = (torch.cat([part.tokens() for part in score_all(model, groups)]) for _ in range(2))
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert model.training
    assert model.transformer.h[1].training
    assert not model.transformer.h[0].training


def test_recurrent_model_runs_unpacked_and_says_so(make_model, groups, separate, targets_of, caplog) -> None:
    model = make_model("mamba", state_size=4)
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="exptilt"):
        found = score(model, groups, byproducts=["entropy"])
        score(model, groups[:1])
    assert [record.getMessage() for record in caplog.records if record.name.startswith("exptilt")] == [
        "MambaForCausalLM cannot run on packed rows (layers of type linear_attention); "
        "it scores padded sequences instead, which is right but slower"
    ]
    rows = separate(model, groups)
    torch.testing.assert_close(
        found.tokens(), rows.gather(1, targets_of(groups)[:, None]).squeeze(1), rtol=0, atol=1e-5
    )
    torch.testing.assert_close(found.entropy, -(rows.exp() * rows).sum(1), rtol=0, atol=1e-5)
    with pytest.raises(DataError, match="the prompt is empty"):
        score(model, [Group(id="a", prompt=np.array([], np.int32), completions=groups[0].completions)])


def test_sequence_longer_than_the_context_is_named(make_model) -> None:
    model = make_model("gpt2", **ARCHITECTURES["gpt2"])
    ids = np.full(65, 5, np.int32)
    fits = Group(id="a.jsonl:1", prompt=ids[:30], completions=(Completion(ids[:35], np.ones(35, bool)),))
    assert score(model, [fits]).lengths.tolist() == [35]
    long = Group(id="a.jsonl:2", prompt=ids[:31], completions=(Completion(ids[:35], np.ones(35, bool)),))
    with pytest.raises(
        DataError, match=r"row a\.jsonl:2: prompt and completion are 66 tokens, the model's context is 64"
    ):
        score(model, [fits, long])


def test_bfloat16_sums_in_float32(make_model, groups) -> None:
    model = make_model("llama")
    exact = score(model, groups).detach().tokens()
    half = score(model.to(torch.bfloat16), groups).detach().tokens()
    assert half.dtype == torch.float32
    assert float((half - exact).abs().max()) < 0.1


def test_gradient_checkpointing_gives_the_same_gradients(make_model, groups) -> None:
    model = make_model("llama").train()
    score(model, groups).tokens().mean().backward()
    plain = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    score(model, groups).tokens().mean().backward()
    for one, other in zip(model.parameters(), plain, strict=True):
        torch.testing.assert_close(one.grad, other, rtol=0, atol=1e-6)
