"""Gradients formed chunk by chunk beside the logits are those of the loss through plain forward passes."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import torch

from exptilt.data.groups import Completion, Group
from exptilt.policies.engine import fused, head, product
from exptilt.policies.scoring import head_gradients, score

GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64}
KINDS = {
    "llama": {"num_key_value_heads": 2},
    "cohere": {"num_key_value_heads": 2, "logit_scale": 0.3},
    "gemma2": {"num_key_value_heads": 2, "head_dim": 8, "final_logit_softcapping": 2.0},
    "phi": {},
    "gpt2": GPT2,
}


def loss_of(groups, logps):
    """Neither linear in the log-probabilities nor alike for all groups."""
    sums = logps.sum()
    sizes = [len(group.completions) for group in groups]
    return (
        sum(
            len(group.prompt) * torch.sigmoid(0.1 * some.max() - 0.2 * some.min())
            for group, some in zip(groups, sums.split(sizes), strict=True)
        )
        + 0 * sums.sum()
    )


def gradients(model):
    return [None if p.grad is None else p.grad.clone() for p in model.parameters()]


def run(model, groups, loss=loss_of, **options):
    model.zero_grad()
    hidden, gradient = head_gradients(model, groups, loss, **options)
    hidden.backward(gradient)
    return gradients(model)


def through(model, groups, loss=loss_of, **options):
    model.zero_grad()
    loss(groups, score(model, groups, **options)).backward()
    return gradients(model)


def assert_same(found, wanted, atol=1e-6):
    for one, other in zip(found, wanted, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=0, atol=atol)


def small_chunks(monkeypatch, rows):
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", 1)
    monkeypatch.setattr(head, "_CHUNK_ROWS", rows)
    monkeypatch.setattr(fused, "GROUP_ELEMENTS", 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [7, 40, 1000])
def test_equals_backward_through_the_scores(kind, rows, make_model, groups, monkeypatch) -> None:
    model = make_model(kind, **KINDS[kind])
    wanted = through(model, groups)
    small_chunks(monkeypatch, rows)
    assert_same(run(model, groups), wanted)


def test_gradients_add_to_what_is_there(make_model, groups) -> None:
    model = make_model("llama")
    whole = through(model, groups)
    model.zero_grad()
    for part in (groups[:3], groups[3:]):
        hidden, gradient = head_gradients(model, part, loss_of)
        hidden.backward(gradient)
    assert_same(gradients(model), whole)


def test_chunks_are_cut_between_groups_and_see_every_group_once(make_model, groups, monkeypatch) -> None:
    small_chunks(monkeypatch, 20)
    seen = []

    def watching(some, logps):
        assert logps.lengths.tolist() == [one.length for group in some for one in group.completions]
        seen.append([group.id for group in some])
        return loss_of(some, logps)

    run(make_model("llama"), groups, watching)
    assert [id for part in seen for id in part] == [group.id for group in groups]
    rows = {group.id: sum(one.length for one in group.completions) for group in groups}
    assert len(seen) > 3
    assert all(sum(rows[id] for id in part) <= 20 or len(part) == 1 for part in seen)


def test_no_more_logits_than_a_chunk_exist(make_model, groups, monkeypatch) -> None:
    small_chunks(monkeypatch, 9)
    sizes = []
    real = fused.Product.forward
    monkeypatch.setattr(
        fused.Product, "forward", lambda self, hidden, out=None: (sizes.append(len(hidden)), real(self, hidden, out))[1]
    )
    run(make_model("llama"), groups)
    assert max(sizes) <= 9


def test_byproducts_reach_the_loss_with_their_gradients(make_model, groups, monkeypatch) -> None:
    model, reference = make_model("llama"), make_model("gpt2", **GPT2)
    options = {"byproducts": ["entropy", "divergence"], "reference": reference}

    def loss(some, logps):
        return loss_of(some, logps) + (logps.entropy * logps.divergence).sum()

    wanted = through(model, groups, loss, **options)
    small_chunks(monkeypatch, 11)
    assert_same(run(model, groups, loss, **options), wanted, atol=1e-5)
    assert all(parameter.grad is None for parameter in reference.parameters())


@pytest.mark.parametrize("frozen", ["head", "trunk"])
def test_frozen_weights_get_none(frozen, make_model, groups) -> None:
    model = make_model("llama")
    (model.lm_head if frozen == "head" else model.model).requires_grad_(False)
    assert_same(run(model, groups), through(model, groups))


def test_a_model_that_runs_unpacked(make_model, groups) -> None:
    model = make_model("mamba", state_size=4)
    assert_same(run(model, groups), through(model, groups))


@pytest.mark.parametrize(("kind", "settings"), [("llama", {}), ("phi", {}), ("mamba", {"state_size": 4})])
def test_no_groups_run_everything_and_add_zeros(kind, settings, make_model) -> None:
    model = make_model(kind, **settings)
    none = score(model, [])
    assert len(none) == 0
    assert none.tokens().requires_grad
    for found in (
        through(model, [], lambda _, logps: logps.tokens().sum()),
        run(model, [], lambda _, logps: logps.tokens().sum()),
    ):
        assert all(one is not None and not one.any() for one in found)
    seen = []
    run(model, [], lambda some, logps: (seen.append(len(some)), logps.tokens().sum())[1])
    assert seen == [0]


def test_tied_weights_get_both_shares(make_model, groups) -> None:
    model = make_model("llama", tie_word_embeddings=True)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert_same(run(model, groups), through(model, groups))


def test_a_loss_without_a_graph_gives_zeros(make_model, groups) -> None:
    found = run(make_model("llama"), groups, lambda some, logps: torch.zeros(()))
    assert not any(one.any() for one in found)


@lru_cache
def realistic(width=32, vocabulary=8_000):
    """Hidden states and a head as a trained model has them: logits up to 30, most tokens likely, some hardly."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2000, width, generator=generator)
    weight = torch.randn(vocabulary, width, generator=generator)
    logits = hidden @ weight.T
    spread = 6 * logits / logits.std()
    targets = torch.distributions.Categorical(logits=spread).sample()
    return hidden, weight * (6 / logits.std()), targets


@pytest.mark.parametrize(
    ("dtype", "autocast", "tolerance"),
    [(torch.bfloat16, False, 5e-4), (torch.float32, False, 5e-4), (torch.float32, True, 5e-4)],
)
def test_the_sum_over_2000_tokens_is_that_of_float64(dtype, autocast, tolerance) -> None:
    hidden, weight, targets = realistic()
    layer = torch.nn.Linear(*weight.T.shape, bias=False, dtype=dtype)
    layer.weight.data, hidden = weight.to(dtype), hidden.to(dtype)
    narrow = torch.bfloat16 if autocast and not product._rounds_nothing() else dtype
    layer.requires_grad_(False)
    exact = torch.log_softmax(hidden.to(narrow).double() @ layer.weight.to(narrow).double().T, 1)
    wanted = exact.gather(1, targets[:, None]).squeeze(1)
    ids = np.zeros(2000, np.int32)
    group = Group(id="long", prompt=ids[:1], completions=(Completion(ids, np.ones(2000, bool)),))
    seen = []
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        states = head.States(head.Head(layer), hidden)
        plain = head.unit_stats(states, targets)["values"]
        fused.gradient_of_states(states, targets, [group], lambda _, logps: (seen.append(logps), logps.sum().sum())[1])
    for values in (plain, seen[0].tokens().detach()):
        assert values.dtype == torch.float32
        assert abs(float((values.double() - wanted).sum())) < tolerance


def test_a_half_precision_gradient_joins_what_a_float32_weight_has(monkeypatch) -> None:
    hidden, weight, targets = realistic()
    hidden, targets = hidden[:50], targets[:50]
    ids = np.zeros(50, np.int32)
    group = Group(id="some", prompt=ids[:1], completions=(Completion(ids, np.ones(50, bool)),))
    layer = torch.nn.Linear(*weight.T.shape, bias=False)
    layer.weight.data = weight

    def gradient(before):
        layer.weight.grad = before
        with torch.autocast("cpu", torch.bfloat16):
            states = head.States(head.Head(layer), hidden)
            fused.gradient_of_states(states, targets, [group], lambda _, logps: logps.sum().sum())
        return layer.weight.grad

    residual = torch.softmax(hidden.double() @ weight.double().T, 1)
    residual[torch.arange(50), targets] -= 1
    exact = -residual.T @ hidden.double()
    alone = gradient(None)
    assert alone.dtype == torch.float32
    assert float((alone - exact).norm() / exact.norm()) < 5e-3  # bfloat16 has 8 bits
    monkeypatch.setattr(fused, "_TOGETHER", 7 * weight.shape[1])  # rows that do not divide the vocabulary
    before = torch.randn(weight.shape)
    assert torch.equal(gradient(before.clone()), before + alone)
