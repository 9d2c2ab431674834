"""What rounds will do, and what would keep them from it, before they begin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from exptilt.errors import ExptiltError
from exptilt.policies.architecture import declared_context
from exptilt.rewards.reward_from_choice import build_reward
from exptilt.runs.rounds.round_recipe import prompt_data, rounds_of
from exptilt.sampling.local_sampler import ids_of_prompts
from exptilt.sampling.prompts_to_sample import prompts_of
from exptilt.settings.recipe import Recipe
from exptilt.settings.reward_settings import ImplicitConfig, OwnReward, RewardModelConfig
from exptilt.settings.rounds_settings import RoundsConfig
from exptilt.wording import counted


@dataclass(frozen=True)
class RoundsCheck:
    """What can be said of rounds before they begin."""

    lines: tuple[str, ...]
    """What they will do, for a person."""
    num_prompts: int
    """Prompts that there are."""
    num_samples: int
    """Completions of a round."""
    most_pairs: int
    """Pairs of a round, at most."""
    longest_prompt: int | None = None
    """Tokens; None without a tokenizer."""
    refusal: str = ""
    """Why a run would stop; empty where nothing is known against it."""


def check_rounds(recipe: Recipe, tokenizer: Any) -> RoundsCheck:
    """Check the prompts, their room in the model's context, and the reward.

    Args:
        recipe: has `rounds`.
        tokenizer: of the model; None limits the check to text.

    Raises:
        DataError: prompts cannot be read.
    """
    rounds = rounds_of(recipe)
    data = prompt_data(recipe)
    asked = prompts_of(data).prompts
    of_a_round = min(len(asked), rounds.prompts_per_round or len(asked))
    longest = None if tokenizer is None else max(len(ids) for ids in ids_of_prompts(tokenizer, asked, data))
    refusals = [_room(recipe, tokenizer, longest), refused_reward(rounds)]
    return RoundsCheck(
        lines=tuple(work_of(rounds, recipe, len(asked))),
        num_prompts=len(asked),
        num_samples=of_a_round * rounds.num_samples,
        most_pairs=of_a_round * rounds.pairs_of_a_prompt,
        longest_prompt=longest,
        refusal="; ".join(reason for reason in refusals if reason),
    )


def refused_reward(rounds: RoundsConfig) -> str:
    """Why the reward cannot be used, as far as that is known without loading a model; empty where nothing is."""
    if rounds.reward is None or isinstance(rounds.reward, RewardModelConfig | ImplicitConfig):
        return ""
    try:
        reward = build_reward(rounds.reward)
    except ExptiltError as error:
        return str(error)
    if hasattr(reward, "close"):
        reward.close()
    return ""


def work_of(rounds: RoundsConfig, recipe: Recipe, num_prompts: int) -> list[str]:
    """What all rounds will do, in lines for a person.

    Args:
        rounds: the settings.
        recipe: of the run.
        num_prompts: prompts that there are.
    """
    asked = min(num_prompts, rounds.prompts_per_round or num_prompts)
    samples, pairs = asked * rounds.num_samples, asked * rounds.pairs_of_a_prompt
    by = {
        "reward": f"a reward ({_name_of(rounds)}) prefers",
        "judge": f"a judge ({'' if rounds.judge is None else rounds.judge.by}) compares",
        "people": f"people compare ({counted(rounds.wanted, 'vote')} each)",
    }[rounds.labelled_by]
    reference = "the model it begins with" if rounds.fresh_reference else "the very first model"
    return [
        f"{counted(rounds.num_rounds, 'round')}, one after the other. In each:",
        f"  sample  {counted(samples, 'completion')}, {rounds.num_samples} of {counted(asked, 'prompt')}, "
        f"of at most {counted(rounds.law.max_new_tokens, 'token')}",
        f"  label   {by} at most {counted(pairs, 'pair')} ({rounds.compared})",
        f"  train   {recipe.loss.name} on them{' and on those of earlier rounds' if rounds.keep_earlier_rows else ''}, "
        f"against {reference}",
    ]


def _name_of(rounds: RoundsConfig) -> str:
    return rounds.reward.title if isinstance(rounds.reward, OwnReward) else getattr(rounds.reward, "kind", "")


def _room(recipe: Recipe, tokenizer: Any, longest: int | None) -> str:
    context = None if longest is None else declared_context(recipe.model, tokenizer)
    new = rounds_of(recipe).law.max_new_tokens
    if longest is None or context is None or longest + new <= context:
        return ""
    return (
        f"the longest prompt has {longest} tokens and leaves no room for rounds.law.max_new_tokens={new} in the model's "
        f"context of {context}"
    )
