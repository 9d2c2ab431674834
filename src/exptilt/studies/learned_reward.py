"""A reward model trained on a study's own preferences: what an online method is paid by where the true reward is not known."""

from __future__ import annotations

from pathlib import Path

from exptilt.settings.data_settings import BatchConfig
from exptilt.settings.loss_choice import LossChoice
from exptilt.settings.recipe import Recipe
from exptilt.settings.reward_settings import RewardModelConfig
from exptilt.settings.training_settings import OptimConfig, TrainConfig
from exptilt.studies.labels_by_reward import Bench, finish

REWARD_MODEL = "reward-model"
"""The folder of its run in the study's folder."""


def learned_reward(folder: Path, bench: Bench, seed: int, rate: float = 2e-3) -> RewardModelConfig:
    """Train a reward model from the reference on the study's preferences, unless it is there.

    Args:
        folder: of the study.
        bench: reference and preferences.
        seed: of the run.
        rate: peak learning rate.
    """
    recipe = Recipe(
        output=str(folder / REWARD_MODEL),
        seed=seed,
        model=bench.reference,
        data=bench.data,
        loss=LossChoice.of("bradley_terry"),
        batch=BatchConfig(size=64),
        optim=OptimConfig(learning_rate=rate),
        train=TrainConfig(epochs=2.0, log_every=5, eval_every=0, save_every=100_000),
    )
    return RewardModelConfig(path=str(finish(recipe).model))
