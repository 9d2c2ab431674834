"""A recipe's `reward:` to the reward itself; models are loaded only where one is asked for."""

from __future__ import annotations

from exptilt.preferences import Reward
from exptilt.settings.reward_settings import (
    AnyReward,
    ClassifierConfig,
    ImplicitConfig,
    LengthConfig,
    OwnReward,
    RewardModelConfig,
    StepsConfig,
    SumConfig,
    VerifierConfig,
)


def build_reward(settings: AnyReward | Reward) -> Reward:
    """Make the reward that the settings choose; a reward, which Python code may give instead, stays as it is.

    Raises:
        ExptiltError: a file, a model, a library or an import that it needs is not there.

    Example:
        >>> build_reward(LengthConfig(unit="words")).scale
        'words'
    """
    if callable(settings):
        return settings
    match settings:
        case LengthConfig():
            from exptilt.rewards.length_reward import Length

            return Length(settings.unit)
        case ClassifierConfig():
            from exptilt.rewards.classifier_reward import ClassifierReward

            return ClassifierReward.load(settings.path, settings.reads)
        case VerifierConfig():
            from exptilt.rewards.verifier import Verifier

            return Verifier(settings)
        case OwnReward():
            from exptilt.rewards.own_reward import ProcessReward

            return ProcessReward(settings)
        case StepsConfig():
            from exptilt.rewards.step_reward import StepReward

            return StepReward(settings, None if settings.reward is None else build_reward(settings.reward))
        case SumConfig():
            from exptilt.rewards.weighted_sum import RewardSum

            parts = tuple((part.weight, build_reward(part.reward)) for part in settings.parts)
            return RewardSum(parts, settings.low, settings.high)
    return _of_models(settings)


def _of_models(settings: RewardModelConfig | ImplicitConfig) -> Reward:
    if isinstance(settings, ImplicitConfig):
        from exptilt.rewards.implicit_reward import ImplicitReward

        return ImplicitReward.load(settings)
    from exptilt.rewards.model_reward import ModelReward

    return ModelReward.load(settings)
