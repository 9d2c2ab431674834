"""An online run before its completions exist: all have the greatest length, so that memory and time are the most there can be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from exptilt.data.groups import Group
from exptilt.kinds import PAIR, PROMPT
from exptilt.labels import Preferred
from exptilt.planning.arithmetic import Load
from exptilt.planning.model_size import ModelSize, model_size
from exptilt.planning.planned_rows import PlannedRows, rows_of
from exptilt.policies.architecture import architecture_for
from exptilt.policies.model_heads import SCORE_HEAD
from exptilt.runs.run_critic import critic_start
from exptilt.runs.run_inputs import prompt_data
from exptilt.runs.run_rollouts import followed_by, rollouts_in
from exptilt.runs.run_rows import room_for_prompts
from exptilt.settings.loss_choice import needs_of
from exptilt.settings.model_settings import ModelConfig
from exptilt.settings.recipe import Recipe
from exptilt.settings.reward_settings import RewardModelConfig, SumConfig
from exptilt.settings.rollout_settings import RolloutConfig

_LOOKED_AT = 64
"""Prompts whose lengths stand for all."""


def rows_of_update(recipe: Recipe) -> int:
    """Rows of one optimizer step: prompts, or the pairs made of them."""
    if recipe.rollout is None or recipe.loss.kind != PAIR:
        return recipe.batch.size
    return recipe.batch.size * recipe.rollout.pairs_of_a_prompt


def planned_prompts(recipe: Recipe, tokenizer: Any, context: int | None) -> PlannedRows:
    """Rows as the loss will see them, made of the prompts."""
    settings = rollouts_in(recipe)
    prompts = rows_of(prompt_data(recipe), tokenizer, PROMPT, room_for_prompts(recipe, context))
    is_paired = recipe.loss.kind == PAIR
    count = 2 if is_paired else settings.num_samples
    copies = settings.pairs_of_a_prompt if is_paired else 1
    made = [_stand_in(group, settings, count, is_paired) for group in prompts.train for _ in range(copies)]
    return replace(prompts, train=made, num_train=prompts.num_train * copies)


def _stand_in(group: Group, settings: RolloutConfig, count: int, is_paired: bool) -> Group:
    made = followed_by(group, *[np.zeros(settings.law.max_new_tokens, np.int32)] * count)
    return replace(made, label=Preferred(1.0, 1.0)) if is_paired else made


def steps_per_epoch(recipe: Recipe, num_rows: int) -> int:
    """Optimizer steps in which every prompt is asked once.

    Args:
        recipe: of an online run.
        num_rows: as many as `planned_prompts` makes.
    """
    settings, size = rollouts_in(recipe), recipe.batch.size
    num_prompts = num_rows * size // rows_of_update(recipe)
    return math.ceil(num_prompts / settings.prompts_per_rollout(size)) * settings.updates(size)


def load_of_rollout(recipe: Recipe, rows: Sequence[Group]) -> Load:
    """What is scored of one rollout, by policy and reference alike."""
    settings = rollouts_in(recipe)
    some = [_stand_in(group, settings, settings.num_samples, False) for group in rows[:_LOOKED_AT]]
    return Load.of(some).times(settings.prompts_per_rollout(recipe.batch.size) / len(some))


def reward_models(recipe: Recipe) -> list[RewardModelConfig]:
    """The reward models that an online run holds beside its own models."""
    reward = None if recipe.rollout is None else recipe.rollout.reward
    parts = [part.reward for part in reward.parts] if isinstance(reward, SumConfig) else [reward]
    return [part for part in parts if isinstance(part, RewardModelConfig)]


def critic_size(recipe: Recipe, tokenizer: Any) -> ModelSize | None:
    """The weights of the critic; None where the loss has none."""
    if recipe.rollout is None or "advantages" not in needs_of(recipe.loss):
        return None
    return model_size(architecture_for(critic_start(recipe), tokenizer), None, SCORE_HEAD)


def reward_bytes(recipe: Recipe, tokenizer: Any) -> float:
    """Memory of the weights of reward models, on the device that asks them."""
    total = 0.0
    for one in reward_models(recipe):
        where = ModelConfig(path=one.path, revision=one.revision, trust_remote_code=one.trust_remote_code)
        size = model_size(architecture_for(where, tokenizer), None, SCORE_HEAD)
        total += size.total * (2 if one.dtype == "bfloat16" else 4)
    return total
