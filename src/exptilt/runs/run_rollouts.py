"""The rollouts of a run: prompts, sampler, reward and reference of a recipe, put together."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np

from exptilt.data.groups import Completion, Credit, Group
from exptilt.data.prepared import Prepared
from exptilt.errors import ConfigError
from exptilt.evaluation.held_out import Wanted
from exptilt.kinds import ROLLOUT
from exptilt.losses import Loss
from exptilt.online.online_pairs import pairs_of, scored_groups
from exptilt.online.rewarded_draws import RewardOfDraws
from exptilt.online.rollout_maker import RolloutMaker
from exptilt.online.rollout_prompts import PromptOrder, RolloutPrompt, digest_of_prompts, rollout_prompts
from exptilt.online.rollout_reference import RolloutReference
from exptilt.online.rollouts import Rollouts, RowsOf
from exptilt.policies.engine.forward import causal_lm
from exptilt.policies.turn_ends import turn_ends
from exptilt.preferences import Reward
from exptilt.processes.world import World
from exptilt.rewards.preferred_pairs import PairRule
from exptilt.rewards.reward_from_choice import build_reward
from exptilt.run_folder.file_names import ROLLOUT_WEIGHTS
from exptilt.runs.run_inputs import prompt_data
from exptilt.runs.run_models import Models
from exptilt.sampling.policy_on_server import open_sampler
from exptilt.sampling.sampler import LocalSampler
from exptilt.sampling.sampling_law import SamplingLaw
from exptilt.settings.recipe import Recipe
from exptilt.settings.rollout_settings import RolloutConfig

logger = logging.getLogger(__name__)

DRAWN_BEFORE_STEP_1 = 8
"""Rows compared with the reference before step 1."""


def rollouts_in(recipe: Recipe) -> RolloutConfig:
    """The rollouts of an online recipe."""
    if recipe.rollout is None:
        raise ConfigError("rollout is missing")
    return recipe.rollout


def rollouts_of(
    recipe: Recipe, loss: Loss, models: Models, rows: Prepared, tokenizer: Any, tokens: int | None, world: World
) -> Rollouts:
    """Make the source of batches of an online run.

    Args:
        recipe: with a section `rollout`.
        loss: on rollouts or on pairs.
        models: the policy, and the reference held as a model.
        rows: prompts to train and to measure on.
        tokenizer: of the policy.
        tokens: most tokens of a micro-batch.
        world: the processes that share the run.

    Raises:
        ExptiltError: the reward cannot be made, or rows are preferences.
    """
    settings, held = rollouts_in(recipe), models.held
    if held is None:
        raise ConfigError("an online run needs its reference as a model")
    require_updates(loss, settings, recipe.batch.size)
    asked, held_out = rollout_prompts(prompt_data(recipe), (rows.train, rows.test), take_prompts=settings.take_prompts)
    law = law_of(settings, turn_ends(tokenizer, models.policy))
    beside = compares_with_reference(loss)
    maker = RolloutMaker(
        sampler=open_sampler(
            settings.sampler,
            models.policy,
            tokenizer,
            folder=recipe.folder / ROLLOUT_WEIGHTS,
            batch_size=settings.samples_at_once,
            world=world,
        ),
        reward=world.first_alone(lambda: _reward_of(settings)),
        is_rewarded=settings.reward is not None,
        policy=models.policy,
        reference=held.model,
        tokenizer=tokenizer,
        law=law,
        num_samples=settings.num_samples,
        truncated_reward=settings.truncated_reward,
        tokens=recipe.batch.at_once,
        world=world,
        beside=LocalSampler(held.model, tokenizer, batch_size=settings.samples_at_once) if beside else None,
    )
    return Rollouts(
        maker=maker,
        asked=asked,
        held_out=held_out[: recipe.evaluate.num_prompts],
        order=PromptOrder(
            num_prompts=len(asked),
            size=settings.prompts_per_rollout(recipe.batch.size),
            seed=recipe.seed,
            shuffle=recipe.batch.shuffle,
        ),
        rows_of=rows_maker(loss, settings, recipe.seed),
        reference=RolloutReference(held.identity, held.source, causal_lm(models.policy).device),
        batch_size=recipe.batch.size,
        epochs=settings.epochs,
        seed=recipe.seed,
        tokens=tokens,
        world=world,
        held_out_samples=recipe.evaluate.num_samples,
        weighs_sampler=weighs_sampler(loss, settings),
    )


def weighs_sampler(loss: Loss, settings: RolloutConfig) -> bool:
    """Whether samples of a server are weighed by trainer over sampler; said aloud where they could be and are not."""
    if settings.sampler is None or not hasattr(loss, "max_weight"):
        return False
    if loss.max_weight is None:
        logger.warning(
            "rollout.sampler: a server's log-probabilities differ from the trainer's (rollout/mismatch) and nothing corrects for it; "
            "loss.max_weight=2 weighs samples by trainer over sampler, truncated there"
        )
    return loss.max_weight is not None


def _reward_of(settings: RolloutConfig) -> Reward | None:
    return None if settings.reward is None else build_reward(settings.reward)


def require_updates(loss: Loss, settings: RolloutConfig, batch_size: int) -> None:
    """Refuse several updates on one rollout where the loss does not correct for samples of an older policy.

    Raises:
        ConfigError: saying what to change.
    """
    updates = settings.updates(batch_size)
    if updates > 1 and loss.kind == ROLLOUT and "behaviour" not in loss.inputs:
        raise ConfigError(
            f"rollout: {updates} updates on each rollout, and loss {loss.name} is right for samples of the present policy only; leave "
            "out rollout.epochs and rollout.num_prompts, or use a loss that corrects for older samples"
        )


def compares_with_reference(loss: Loss) -> bool:
    """Whether a pair is one completion of the policy and one of the reference, as XPO needs."""
    return "chosen_is_policy" in loss.inputs


def law_of(settings: RolloutConfig, ends: tuple[int, ...]) -> SamplingLaw:
    """The law of a recipe's rollouts.

    Args:
        settings: say how completions are drawn.
        ends: ids that end a completion.
    """
    return SamplingLaw(**asdict(settings.law), eos_ids=ends)


def rows_maker(loss: Loss, settings: RolloutConfig, seed: int) -> RowsOf:
    """What makes the rows of the loss of a rollout: its groups as they are, or pairs."""
    if loss.kind == ROLLOUT:
        least = 2 if "scores" in loss.inputs else 1 if "advantages" in loss.inputs else 0
        return lambda groups, number, left_out: scored_groups(groups, least, left_out)
    rule = PairRule(
        which="across" if compares_with_reference(loss) else settings.pairs,
        label={"greater": "reward", "coin": "coin", "soft": "soft"}[settings.decide],  # type: ignore[arg-type]
        scale=settings.scale,
        min_margin=settings.min_margin,
        keep_ties=settings.on_tie == "keep",
    )
    return partial(_pairs, rule=rule, seed=seed)


def _pairs(
    groups: Mapping[int, Group], number: int, left_out: Counter[str], *, rule: PairRule, seed: int
) -> list[Group]:
    return pairs_of(groups, rule, (seed, number), left_out)


def identity_of_rollouts(rollouts: Rollouts, world: World) -> dict[str, str]:
    """What a resume must find equal: the words of the prompts, and the reward."""
    reward = rollouts.maker.reward
    return {
        "prompts' words": digest_of_prompts([*rollouts.asked, *rollouts.held_out]),
        "reward": world.first("" if reward is None else reward.identity),
    }


def wanted_online(recipe: Recipe, loss: Loss, reward: Reward | None, held_out: Sequence[RolloutPrompt]) -> Wanted:
    """What is measured of an online run: samples of held-out prompts, under the law of its rollouts, with their rewards.

    Args:
        recipe: with a section `rollout`.
        loss: of the run.
        reward: of the run; None where it has none.
        held_out: prompts to measure on.
    """
    settings = rollouts_in(recipe)
    measured = replace(recipe.evaluate, max_new_tokens=settings.law.max_new_tokens)
    wanted = Wanted.of(loss, measured, recipe.batch.at_once, recipe.seed)
    asks = None if reward is None else RewardOfDraws(reward, held_out, settings.truncated_reward)
    return replace(wanted, pairs=False, reward=asks)


def prompts_as_rows(rows: Prepared, settings: RolloutConfig) -> list[Group]:
    """A few prompts with themselves as completions: text on which policy and reference can be compared before anything is drawn."""
    return [followed_by(one, one.prompt[: settings.law.max_new_tokens]) for one in rows.train[:DRAWN_BEFORE_STEP_1]]


def longest_rows(rows: Prepared, settings: RolloutConfig, size: int) -> list[Group]:
    """Rows as large as a rollout's can be, for probes of memory."""
    longest = sorted(rows.train, key=lambda group: -len(group.prompt))[:size]
    blank = np.zeros(settings.law.max_new_tokens, np.int32)
    return [followed_by(group, *[blank] * settings.num_samples) for group in longest]


def followed_by(group: Group, *completions: Any) -> Group:
    """A prompt with these token ids as completions, as a rollout would have them."""
    made = []
    for at, ids in enumerate(completions):
        blank, counted = np.zeros(len(ids), np.float32), np.ones(len(ids), np.bool_)
        made.append(Completion(ids, counted, float(at % 2), blank, 0, Credit(blank, blank, blank)))
    return Group(id=group.id, prompt=group.prompt, completions=tuple(made))
