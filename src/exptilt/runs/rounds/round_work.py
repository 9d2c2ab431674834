"""What rounds will do, in lines for a person, before they begin."""

from __future__ import annotations

from exptilt.settings.recipe import Recipe
from exptilt.settings.rounds_settings import RoundsConfig
from exptilt.wording import counted


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
        "reward": f"a reward ({'' if rounds.reward is None else rounds.reward.kind}) prefers",
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
