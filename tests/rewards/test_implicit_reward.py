from __future__ import annotations

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from exptilt.preferences import Answer
from exptilt.rewards.implicit_reward import ImplicitReward
from exptilt.settings.reward_settings import ImplicitConfig


def log_probability(folder, prompt: list[int], completion: list[int]) -> float:
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        logps = model(input_ids=torch.tensor([prompt + completion])).logits[0].double().log_softmax(-1)
    places = range(len(prompt) - 1, len(prompt) + len(completion) - 1)
    return sum(float(logps[at, id_]) for at, id_ in zip(places, completion, strict=True))


def test_it_is_beta_times_the_log_ratio_of_whole_completions(tmp_path, save_model, tokenizer):
    policy = save_model(tmp_path / "policy", seed=1)
    reference = save_model(tmp_path / "reference", seed=2)
    reward = ImplicitReward.load(ImplicitConfig(policy=str(policy), reference=str(reference), beta=0.5))
    prompt = tokenizer("the film")["input_ids"]
    drawn = np.array([*tokenizer(" good", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id], np.int32)
    odd = np.array(
        [tokenizer.convert_tokens_to_ids(letter) for letter in "it"], np.int32
    )  # not how it is spelled alone
    answers = [
        Answer(prompt="the film", text=" good"),
        Answer(prompt="the film", text=" good", ids=drawn),
        Answer(prompt="the film", text="it", ids=odd),
        Answer(prompt="the film", text=" bad", ids=odd),  # ids of another text are not believed
    ]
    bad = [*tokenizer(" bad", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    expected = [
        0.5 * (log_probability(policy, prompt, ids) - log_probability(reference, prompt, ids))
        for ids in (drawn.tolist(), drawn.tolist(), odd.tolist(), bad)
    ]
    np.testing.assert_allclose(reward(answers), expected, atol=1e-5)


def test_a_policy_against_itself_rewards_nothing(tmp_path, save_model):
    folder = str(save_model(tmp_path))
    reward = ImplicitReward.load(ImplicitConfig(policy=folder, reference=folder))
    assert reward([Answer(prompt="the", text=" film"), Answer(prompt="a", text="b")]).tolist() == [0.0, 0.0]
