"""What a recipe for an online run refuses, in one line each."""

from __future__ import annotations

import pytest

from exptilt.errors import ConfigError
from exptilt.settings.load import dump, load
from exptilt.settings.mask_settings import MaskRecipe
from exptilt.settings.recipe import Recipe

START = ["output=run", "model.path=base", "data.train=prompts.jsonl"]
LENGTH = "reward: {kind: length}"
REFUSED = {
    "rloo without rollouts": (
        ["loss=rloo"],
        "rollout is missing: loss rloo learns from completions drawn while training",
    ),
    "no reward": (["loss=rloo", "rollout={}"], "rollout.reward is missing"),
    "no reward of a critic": (["loss=ppo", "rollout={}"], "rollout.reward is missing"),
    "no reward for pairs": (["loss=dpo", "rollout={}"], "rollout.reward is missing"),
    "one sample": (
        ["loss=rloo", f"rollout={{{LENGTH}, num_samples: 1}}"],
        "rollout.num_samples must be at least 2 for rloo",
    ),
    "a loss on ratings": (["loss=kto", f"rollout={{{LENGTH}}}"], "rollout needs a loss on rollouts or on pairs"),
    "a reward model": (["loss=bradley_terry", f"rollout={{{LENGTH}}}"], "rollout needs a loss on rollouts or on pairs"),
    "a target KL of 0": (["loss={name: rloo, target_kl: 0}", f"rollout={{{LENGTH}}}"], "target_kl must be > 0"),
    "a bent law": (["loss=rloo", f"rollout={{{LENGTH}, law: {{top_k: 5}}}}"], "rollout.law.top_k bends the law"),
    "part of a batch": (
        ["loss=ppo", f"rollout={{{LENGTH}, num_prompts: 65}}"],
        "must be a multiple of batch.size = 64",
    ),
    "rounds": (["loss=dpo", f"rollout={{{LENGTH}}}", "rounds=2"], "rounds and rollout exclude each other"),
    "a moving reference": (
        ["loss=dpo", f"rollout={{{LENGTH}}}", "reference.move_every=5"],
        "reference.move_every and rollout",
    ),
    "a reward of a wrong kind": (["loss=rloo", "rollout={reward: {kind: lenght}}"], "rollout.reward"),
    "words for a number": (
        ["loss=rloo", f"rollout={{{LENGTH}, truncated_reward: less}}"],
        "must be 'own' or 'unscored'",
    ),
}


@pytest.mark.parametrize(("keys", "words"), REFUSED.values(), ids=REFUSED)
def test_a_mistake_is_one_line(keys, words):
    with pytest.raises(ConfigError) as refused:
        load(Recipe, None, [*START, *keys])
    said = [line for line in str(refused.value).splitlines() if words in line]
    assert said, str(refused.value)
    assert len(said[0]) < 300


@pytest.mark.parametrize(
    "keys",
    [
        ["loss=rloo", f"rollout={{{LENGTH}}}"],
        ["loss=distill", "rollout={num_samples: 1}"],
        ["loss=ppo", f"rollout={{{LENGTH}, num_prompts: 256, epochs: 4, truncated_reward: -1}}"],
        ["loss=ipo", f"rollout={{{LENGTH}, law: {{temperature: 0.7}}, pairs: all, decide: coin}}"],
        ["loss=rloo", f"rollout={{{LENGTH}, sampler: {{url: 'http://localhost:8000/v1'}}}}"],
    ],
)
def test_what_is_right_is_read_and_written(keys, tmp_path):
    recipe = load(Recipe, None, [*START, *keys])
    (tmp_path / "recipe.yaml").write_text(dump(recipe))
    assert load(Recipe, tmp_path / "recipe.yaml", []) == recipe


def test_masks_are_not_trained_online():
    with pytest.raises(ConfigError, match="rloo learns from texts drawn while training; masks are trained on rows"):
        load(MaskRecipe, None, ["output=o", "segmenter.path=x", "data.train=m.csv", "data.classes=2", "loss=rloo"])
