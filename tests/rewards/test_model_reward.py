from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from exptilt.errors import ModelError
from exptilt.policies.engine.pooled import has_score
from exptilt.policies.engine.self_check import packable
from exptilt.preferences import Answer
from exptilt.rewards.model_reward import ModelReward
from exptilt.settings.reward_settings import RewardModelConfig

PROMPTS = ("what do you think", "the plot")
TEXTS = (" I liked it", " bad", " it was very good and the film was bad", " the")


@pytest.fixture
def answers():
    return [Answer(prompt=prompt, text=text) for prompt in PROMPTS for text in TEXTS]


def plain_scores(folder, answers) -> list[float]:
    """What transformers says of each text alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    found = []
    for answer in answers:
        ids = tokenizer(answer.prompt)["input_ids"]
        ids = ids + tokenizer(answer.text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        with torch.no_grad():
            found.append(float(model(input_ids=torch.tensor([ids])).logits[0, 0]))
    return found


@pytest.mark.parametrize(("kind", "packs"), [("llama", True), ("gpt2", True), ("qwen3", True), ("bert", False)])
def test_scores_are_those_of_transformers(tmp_path, save_model, answers, kind, packs):
    heads = {"num_key_value_heads": 2, "head_dim": 8} if kind == "qwen3" else {}
    folder = save_model(tmp_path, kind, labels=1, **heads)
    reward = ModelReward.load(RewardModelConfig(path=str(folder)))
    scores = reward(answers)
    assert (has_score(reward._model) and packable(reward._model)) is packs
    assert np.ptp(scores) > 0.05
    np.testing.assert_allclose(scores, plain_scores(folder, answers), atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(reward(answers[::-1]), scores[::-1], atol=1e-5, rtol=1e-5)


def test_what_does_not_fit_the_context_is_unscored(tmp_path, save_model, answers):
    folder = save_model(tmp_path, labels=1)
    reward = ModelReward.load(RewardModelConfig(path=str(folder)))
    scores = reward([*answers, Answer(prompt="the film", text=" good" * 80)])
    assert np.isfinite(scores[:-1]).all()
    assert np.isnan(scores[-1])


def test_what_is_no_reward_model_is_one_line(tmp_path, save_model):
    two = save_model(tmp_path / "two", labels=2)
    with pytest.raises(ModelError, match="has 2 labels; a reward model has one"):
        ModelReward.load(RewardModelConfig(path=str(two)))
    causal = save_model(tmp_path / "causal", num_labels=1)
    with pytest.raises(
        ModelError,
        match=r"lacks 1 weight, which would start random \(first: score\.weight\); it is not a complete trained reward model",
    ):
        ModelReward.load(RewardModelConfig(path=str(causal)))
    with pytest.raises(ModelError, match="no such folder"):
        ModelReward.load(RewardModelConfig(path=str(tmp_path / "nowhere")))


CHATML = (
    "{% for turn in messages %}<|{{ turn['role'] }}|> {{ turn['content'] }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% endif %}"
)


def test_a_conversation_is_read_to_the_end_that_its_template_writes(tmp_path, save_model):
    """As TRL trains and RewardBench measures: text tokenised as a whole, the score on ChatML's line break behind the end token."""
    folder = save_model(tmp_path, labels=1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    asked: list = [{"role": "user", "content": "what do you think"}]
    texts = ("I liked it", "bad")
    turns = [[*asked, {"role": "assistant", "content": text}] for text in texts]
    wholes = [tokenizer.apply_chat_template(one, tokenize=True, return_dict=True)["input_ids"] for one in turns]
    assert all(whole[-1] != tokenizer.eos_token_id for whole in wholes)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        plain = [float(model(input_ids=torch.tensor([whole])).logits[0, 0]) for whole in wholes]
        at_end = [float(model(input_ids=torch.tensor([whole[:-1]])).logits[0, 0]) for whole in wholes]
    assert min(abs(one - other) for one, other in zip(plain, at_end, strict=True)) > 1e-3
    reward = ModelReward.load(RewardModelConfig(path=str(folder)))
    answers = [Answer(prompt=tuple(asked), text=text) for text in texts]
    np.testing.assert_allclose(reward(answers), plain, atol=1e-5)
    start = len(tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=True)["input_ids"])
    drawn = [  # a sample stops at its end token
        Answer(prompt=tuple(asked), text=text, ids=np.array(whole[start:-1], np.int32))
        for text, whole in zip(texts, wholes, strict=True)
    ]
    assert all(one.ids is not None and one.ids[-1] == tokenizer.eos_token_id for one in drawn)
    np.testing.assert_allclose(reward(drawn), plain, atol=1e-5)
