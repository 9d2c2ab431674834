"""The critic of a run: which weights it starts from, made ready beside the policy's, and what moves them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from exptilt.errors import ModelError
from exptilt.losses import Loss
from exptilt.losses.clipped_value import ClippedValue
from exptilt.policies.critic import Critic
from exptilt.policies.model_heads import SCORE_HEAD
from exptilt.policies.models import load_tokenizer
from exptilt.processes.world import World
from exptilt.runs.run_models import Models, Setup, models_of, trains_in_float32
from exptilt.settings.critic_settings import CriticConfig
from exptilt.settings.model_settings import ModelConfig, ReferenceConfig
from exptilt.settings.recipe import Recipe
from exptilt.settings.reward_settings import RewardModelConfig
from exptilt.training.learner import Learner
from exptilt.training.objective import Objective
from exptilt.training.optim import build_optimizer, build_schedule


def critic_models(recipe: Recipe, loss: Loss, setup: Setup, tokenizer: Any, world: World) -> Models | None:
    """Load the critic and make it ready to train; None where the loss needs none.

    It is trained whole, also where the policy has an adapter, in the precision and on the shards of the policy.

    Raises:
        ModelError: it has another tokenizer than the policy, or is no decoder.
    """
    if "advantages" not in loss.inputs:
        return None
    start = critic_start(recipe)
    _require_same_tokenizer(start, recipe.model, tokenizer)
    widens = trains_in_float32(start, None, setup.products)
    own = replace(
        setup, head=SCORE_HEAD, adapter=None, reference="table", needs_distributions=False, moves=False, widens=widens
    )
    return models_of(start, ReferenceConfig(), own, tokenizer, world)


def critic_start(recipe: Recipe) -> ModelConfig:
    """The weights a critic starts from: those it names, else the reward model's, else the policy's."""
    settings = recipe.critic or CriticConfig()
    reward = None if recipe.rollout is None else recipe.rollout.reward
    named = settings.model or (reward.path if isinstance(reward, RewardModelConfig) else None)
    if named is None:
        return replace(recipe.model, quantize="none")
    return ModelConfig(path=named, dtype=recipe.model.dtype, trust_remote_code=recipe.model.trust_remote_code)


def _require_same_tokenizer(start: ModelConfig, policy: ModelConfig, tokenizer: Any) -> None:
    """Refuse a critic that would read other words than the policy wrote."""
    if start.path == policy.path:
        return
    if load_tokenizer(start).get_vocab() != tokenizer.get_vocab():
        raise ModelError(
            f"critic: {start.path} has another tokenizer than the policy, and reads the policy's tokens; name a reward model with the "
            "policy's tokenizer in critic.model, or the policy's own start"
        )


def learner_of(
    models: Models | None, critic: Critic | None, settings: CriticConfig | None, num_steps: int
) -> Learner | None:
    """The critic with what moves it; it takes a step whenever the policy does."""
    if models is None or critic is None:
        return None
    chosen = settings or CriticConfig()
    optimizer = build_optimizer(chosen.optim, models.policy)
    return Learner(
        model=models.policy,
        scorer=critic,
        objective=Objective(ClippedValue(clip=chosen.clip)),
        optimizer=optimizer,
        schedule=build_schedule(chosen.optim, optimizer, num_steps),
        max_grad_norm=chosen.optim.max_grad_norm,
    )
