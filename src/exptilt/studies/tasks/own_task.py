"""The task of the user's own model, preferences and reward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from exptilt.data.prepared import prepare
from exptilt.errors import ConfigError, DataError
from exptilt.kinds import PAIR
from exptilt.policies.engine.forward import context_length
from exptilt.policies.models import load_model, load_tokenizer
from exptilt.preferences import Answer
from exptilt.rewards.reward_from_choice import build_reward
from exptilt.rewards.scored_answers import rewards_of
from exptilt.run_folder.file_names import MODEL
from exptilt.sampling.draws import distinct_prompts
from exptilt.sampling.sampling_law import SamplingLaw
from exptilt.settings.grid_settings import OwnTask
from exptilt.settings.own_parts import import_object, source_digest
from exptilt.settings.reward_settings import AnyReward, RewardModelConfig
from exptilt.studies.bench import Reward
from exptilt.studies.labels_by_reward import Bench


def prepare_own(task: OwnTask, law: SamplingLaw, num_prompts: int) -> Bench:
    """Read the held-out prompts and find the reward."""
    reward = rewarding(task.reward)
    tokenizer = load_tokenizer(task.model)
    context = context_length(load_model(task.model, tokenizer))
    rows = prepare(task.data, tokenizer, PAIR, context).test
    prompts = distinct_prompts(rows)
    if not prompts:
        raise DataError(f"{task.data.named}: no held-out prompts to measure on; set data.test or data.test_fraction")
    fitting = [prompt for prompt in prompts if context is None or len(prompt) + law.max_new_tokens <= context]
    if len(fitting) < min(num_prompts, len(prompts)):
        raise DataError(
            f"only {len(fitting)} of {len(prompts)} held-out prompts leave room for {law.max_new_tokens} new tokens "
            f"in the model's context of {context}; lower measure.max_new_tokens or measure.num_prompts"
        )

    return Bench(
        task.model,
        task.data,
        fitting[:num_prompts],
        reward,
        reward.name,
        {"reward's source": reward.identity},
        None if isinstance(task.reward, str) else task.reward,
    )


@dataclass(frozen=True)
class NamedReward:
    """A reward of texts, with its name."""

    function: Reward
    name: str
    identity: str | None
    """Equal where the numbers are equal; None where the source of a function cannot be read."""

    def __call__(self, prompts: Sequence[str], completions: Sequence[str]) -> ArrayLike:
        """(N,) rewards of N completions."""
        return self.function(prompts, completions)


def rewarding(choice: AnyReward | str) -> NamedReward:
    """A reward of a recipe, of a reward model's folder or run, or of the function that `module:function` names, for many texts.

    Raises:
        ExptiltError: saying which part is wrong.

    Example:
        >>> from exptilt.settings.reward_settings import LengthConfig
        >>> reward = rewarding(LengthConfig(unit="words"))
        >>> reward.name, reward(["Well?"], ["no one knows"]).tolist()
        ('length', [3.0])
    """
    folder = Path(choice).expanduser() if isinstance(choice, str) else None
    if folder is not None and folder.is_dir():
        model = RewardModelConfig(path=str(folder / MODEL if (folder / MODEL).is_dir() else folder))
        return replace(rewarding(model), name=folder.name)
    if isinstance(choice, str):
        function = find_function(choice)

        def by_function(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
            return [float(function(*both)) for both in zip(prompts, completions, strict=True)]

        return NamedReward(by_function, function.__name__.replace("_", " "), source_digest(function))
    reward = build_reward(choice)

    def by_reward(prompts: Sequence[str], completions: Sequence[str]) -> NDArray[np.float64]:
        asked = [Answer(prompt=prompt, text=text) for prompt, text in zip(prompts, completions, strict=True)]
        return rewards_of(reward, asked)

    return NamedReward(by_reward, reward.name, reward.identity)


def find_function(name: str) -> Callable[[str, str], float]:
    """Find the Python function that `module:function` names, also in modules of the current folder.

    Raises:
        ConfigError: saying which part is wrong.

    Example:
        >>> find_function("operator:add")("a", "b")
        'ab'
    """
    try:
        function = import_object(name, "reward")
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if not callable(function):
        raise ConfigError(f"reward: {name} is not a function")
    called: Callable[[str, str], float] = function
    return called
