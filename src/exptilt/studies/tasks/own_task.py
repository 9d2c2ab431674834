"""The task of the user's own model, preferences and reward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from exptilt.data.prepared import prepare
from exptilt.errors import ConfigError, DataError
from exptilt.kinds import PAIR
from exptilt.policies.engine.forward import context_length
from exptilt.policies.models import load_model, load_tokenizer
from exptilt.preferences import Answer
from exptilt.rewards.model_reward import ModelReward
from exptilt.sampling.draws import distinct_prompts
from exptilt.sampling.sampling_law import SamplingLaw
from exptilt.settings.grid_settings import OwnTask
from exptilt.settings.own_parts import import_object, source_digest
from exptilt.settings.reward_settings import RewardModelConfig
from exptilt.studies.bench import Reward
from exptilt.studies.labels_by_reward import Bench


def prepare_own(task: OwnTask, law: SamplingLaw, num_prompts: int) -> Bench:
    """Read the held-out prompts and find the reward."""
    function = find_function(task.reward)
    tokenizer = load_tokenizer(task.model)
    context = context_length(load_model(task.model, tokenizer))
    rows = prepare(task.data, tokenizer, PAIR, context).test
    prompts = distinct_prompts(rows)
    if not prompts:
        raise DataError(f"{task.data.train}: no held-out prompts to measure on; set data.test or data.test_fraction")
    fitting = [prompt for prompt in prompts if context is None or len(prompt) + law.max_new_tokens <= context]
    if len(fitting) < min(num_prompts, len(prompts)):
        raise DataError(
            f"only {len(fitting)} of {len(prompts)} held-out prompts leave room for {law.max_new_tokens} new tokens "
            f"in the model's context of {context}; lower measure.max_new_tokens or measure.num_prompts"
        )

    name = function.__name__.replace("_", " ")
    return Bench(
        task.model,
        task.data,
        fitting[:num_prompts],
        rewarding(task.reward),
        name,
        {"reward's source": source_digest(function)},
    )


def rewarding(name: str) -> Reward:
    """Make a reward of many completions from the function that `module:function` names, or from a reward model's folder.

    Raises:
        ConfigError: saying which part is wrong.
        ModelError: the folder holds no reward model.
    """
    if Path(name).expanduser().is_dir():
        return _of_model(Path(name).expanduser())
    function = find_function(name)

    def reward(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        return [float(function(prompt, completion)) for prompt, completion in zip(prompts, completions, strict=True)]

    return reward


def _of_model(folder: Path) -> Reward:
    """The reward of a run's reward model, or of a model's folder."""
    model = ModelReward.load(RewardModelConfig(path=str(folder)))

    def reward(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        answers = [Answer(prompt=prompt, text=text) for prompt, text in zip(prompts, completions, strict=True)]
        return [float(score) for score in model(answers)]

    return reward


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
