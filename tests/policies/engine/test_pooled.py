"""A reward model's packed scores are those of transformers' own padded forward, and so are their gradients."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from exptilt.data.groups import Completion, Group
from exptilt.errors import DataError, ModelError
from exptilt.policies.engine.pooled import has_score, pooled_scores
from exptilt.policies.engine.self_check import packable
from exptilt.policies.reward_scorer import RewardScorer, scores_of_groups

SHAPE: dict[str, Any] = {
    "vocab_size": 53,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
KINDS = {
    "llama": {"num_key_value_heads": 2},
    "qwen2": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 8},
    "gpt2": {},
    "mistral": {"num_key_value_heads": 2, "sliding_window": 5},
}


def build(kind: str, dtype: torch.dtype = torch.float32, labels: int = 1, **settings: Any) -> Any:
    config = AutoConfig.for_model(kind, **{**SHAPE, **KINDS.get(kind, {}), "num_labels": labels, **settings})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.2)
    return model.to(dtype).eval()


def padded(model: Any, groups: list[Group]) -> torch.Tensor:
    """What anybody gets who pads prompt and completion on the right and asks transformers."""
    rows = [np.concatenate([group.prompt, one.ids]) for group in groups for one in group.completions]
    width = max(map(len, rows))
    padding = model.config.pad_token_id
    ids = torch.tensor([[*row, *[padding] * (width - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return model(input_ids=ids, attention_mask=mask).logits[:, 0]


def row(prompt: list[int], *completions: list[int]) -> Group:
    made = tuple(Completion(np.array(ids, np.int32), np.ones(len(ids), np.bool_)) for ids in completions)
    return Group(id="rows.jsonl:1", prompt=np.array(prompt, np.int32), completions=made)


@pytest.mark.parametrize("kind", KINDS)
def test_packed_scores_are_transformers_own(groups, kind):
    model = build(kind)
    expected = padded(model, groups).detach()
    assert packable(model)
    scores = pooled_scores(model, groups, packed=True)
    assert float(expected.std()) > 0.05
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(pooled_scores(model, groups, packed=False), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_gradients_are_transformers_own(groups, kind):
    model = build(kind, torch.float64)
    weights = torch.linspace(-1, 1, sum(len(group.completions) for group in groups), dtype=torch.float64)
    (padded(model, groups) * weights).sum().backward()
    expected = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    RewardScorer(model).backward(groups, lambda _, scores: (scores.sum() * weights).sum())
    for name, gradient in expected.items():
        torch.testing.assert_close(model.get_parameter(name).grad, gradient, atol=1e-5, rtol=1e-4)


def test_padding_at_the_end_is_passed_over_as_transformers_does(monkeypatch):
    """The end token is often the padding token; even a completion and a prompt may be nothing else at their ends."""
    model = build("llama", pad_token_id=2)
    groups = [row([1, 7, 2], [5, 6, 2], [9, 2, 2], [2], [2, 8]), row([2], [2, 2], [4]), row([5], [6, 2])]
    expected = padded(model, groups).detach()
    assert packable(model)
    scores = pooled_scores(model, groups, packed=True).detach()
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)
    # The score stands on the prompt's last real token, whatever padding follows.
    alone = model(input_ids=torch.tensor([[1, 7]])).logits[0, 0]
    torch.testing.assert_close(scores[2], alone, atol=1e-5, rtol=1e-5)


def test_without_groups_it_runs_and_adds_zeros():
    model = build("llama", torch.float64)
    scorer = RewardScorer(model)
    scorer.backward([], lambda _, scores: scores.tokens().sum())
    assert len(scorer([])) == 0
    assert all(
        weight.grad is not None and not weight.grad.any() for weight in (model.score.weight, model.model.norm.weight)
    )


def test_a_row_beyond_the_context_is_named(groups):
    model = build("gpt2", max_position_embeddings=8)
    with pytest.raises(
        DataError, match=r"row rows.jsonl:14: prompt and completion are 20 tokens, the model's context is 8"
    ):
        pooled_scores(model, groups[1:2], packed=False)


def test_what_cannot_be_packed_is_padded(groups, caplog):
    """A model that looks ahead is no decoder with a prompt that can be shared, and is still scored right."""
    model = build("llama", torch.float64)
    for layer in model.model.layers:
        layer.self_attn.register_forward_pre_hook(_shifted, with_kwargs=True)
    with caplog.at_level(logging.WARNING):
        assert not packable(model)
    assert "cannot run on packed rows (packed and separate scores differ by" in caplog.text
    scores = torch.cat(scores_of_groups(model, groups))
    torch.testing.assert_close(scores, padded(model, groups).detach(), atol=1e-5, rtol=1e-5)


def _shifted(module: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Add to every state the mean of its whole row, which packing mixes."""
    states = kwargs["hidden_states"]
    return args, {**kwargs, "hidden_states": states + 0.1 * states[:, :3].mean(1, keepdim=True)}


def test_only_one_label_makes_a_score():
    assert has_score(build("llama"))
    assert not has_score(build("llama", labels=2))
    assert not has_score(build("bert"))


def test_a_balance_loss_needs_packed_rows(groups):
    model = build("mixtral", num_local_experts=2, num_experts_per_tok=1, output_router_logits=True)
    scorer = RewardScorer(model)
    assert scorer.balance is not None
    with pytest.raises(ModelError, match="needs packed rows"):
        pooled_scores(model, groups, packed=False, balance=scorer.balance)
