"""`critic:` of a recipe: the model that predicts rewards to come, for losses such as ppo. Never imports torch."""

from __future__ import annotations

from exptilt.settings.declaration import config
from exptilt.settings.ranges import Positive
from exptilt.settings.training_settings import OptimConfig


@config
class CriticConfig:
    """A critic of its own: a whole model with one score, which is trained beside the policy and has an optimizer of its own.

    Example:
        >>> CriticConfig(model="my-reward-model").optim.learning_rate
        1e-05
    """

    model: str | None = None
    """Folder or hub id it starts from: a reward model with the policy's tokenizer, or a language model, which gets a new score.
    Default: the reward model of rollout.reward, else the model that the policy starts from."""
    optim: OptimConfig = OptimConfig(learning_rate=1e-5)
    """How its weights move."""
    clip: Positive | None = 0.2
    """How far a value may move in one rollout before its gradient is cut, in units of the reward; null for no limit."""
