"""Values of a critic against the model's own forward, token by token; and a critic that starts from a reward model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from exptilt.errors import ModelError
from exptilt.policies.critic import Critic
from exptilt.policies.reward_scorer import RewardScorer


@pytest.fixture
def critic_model(make_model):
    def make(kind: str, **settings):
        config = make_model(kind, **settings).config
        config.num_labels, config.pad_token_id = 1, 0
        torch.manual_seed(1)
        return AutoModelForSequenceClassification.from_config(config).eval()

    return make


def expected(model, groups):
    """Each completion alone after its prompt: the score of the state before each counted token."""
    values = []
    for group in groups:
        for completion in group.completions:
            ids = torch.from_numpy(np.concatenate([group.prompt, completion.ids]).astype(np.int64))[None]
            states = model.base_model(input_ids=ids).last_hidden_state[0]
            places = len(group.prompt) + np.flatnonzero(completion.counted) - 1
            values.append(model.score(states)[places, 0])
    return torch.cat(values)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_values_are_those_of_each_completion_alone(critic_model, groups, kind):
    settings = {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64} if kind == "gpt2" else {}
    model = critic_model(kind, **settings)
    found = Critic(model)(groups)
    assert found.lengths.tolist() == [one.length for group in groups for one in group.completions]
    torch.testing.assert_close(found.tokens(), expected(model, groups), rtol=0, atol=2e-6)


def test_a_model_that_cannot_run_packed_rows_gives_the_same_values(critic_model, groups, monkeypatch):
    model = critic_model("llama")
    monkeypatch.setattr("exptilt.policies.critic.packable", lambda _: False)
    monkeypatch.setattr("exptilt.policies.critic._PADDED_TOKENS", 40)
    torch.testing.assert_close(Critic(model)(groups).tokens(), expected(model, groups), rtol=0, atol=2e-6)


def test_the_gradient_is_that_of_each_completion_alone_and_no_rows_add_zeros(critic_model, groups):
    model = critic_model("llama")
    weights = torch.linspace(-1, 1, len(expected(model, groups)))
    Critic(model).backward(groups, lambda _, values: (values.tokens() * weights).sum())
    found = {name: leaf.grad.clone() for name, leaf in model.named_parameters() if leaf.grad is not None}
    Critic(model).backward([], lambda _, values: values.tokens().sum())
    assert all(torch.equal(found[name], dict(model.named_parameters())[name].grad) for name in found)
    model.zero_grad()
    (expected(model, groups) * weights).sum().backward()
    for name, leaf in model.named_parameters():
        if leaf.grad is not None:
            torch.testing.assert_close(found[name], leaf.grad, rtol=0, atol=1e-5)


def test_a_critic_from_a_reward_model_begins_with_its_score_at_the_last_token(critic_model, make_group):
    """The reward model pools the state after the last token, which is the padding token here: the state the critic reads before it."""
    model, group = critic_model("llama"), make_group(5, 4)
    ended = group.completions[0].ids.copy()
    ended[-1] = 0
    one = type(group.completions[0])(ended, np.ones(len(ended), bool))
    group = type(group)(id="a", prompt=group.prompt, completions=(one,))
    score = RewardScorer(model)([group]).tokens()
    assert Critic(model)([group]).tokens()[-1].item() == pytest.approx(score.item(), abs=1e-6)


def test_a_language_model_is_no_critic(make_model):
    with pytest.raises(ModelError, match="critic: the model is no decoder with one score"):
        Critic(make_model("llama"))
