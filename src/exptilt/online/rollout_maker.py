"""Makes rollouts: completions are drawn, rewarded, and scored by policy and reference in one pass."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from exptilt.data.batching import pack, shares
from exptilt.data.groups import Completion, Group
from exptilt.errors import ExptiltError
from exptilt.online.rewarded_draws import TruncatedReward, answer_to, with_cut
from exptilt.online.rollout import Floats, Rollout, with_behaviour
from exptilt.online.rollout_prompts import RolloutPrompt
from exptilt.policies.engine.forward import evaluating
from exptilt.policies.engine.inside import ENTRANCE, beside
from exptilt.policies.scoring import unit_scores
from exptilt.preferences import Reward
from exptilt.processes.world import World
from exptilt.rewards.scored_answers import rewards_of
from exptilt.sampling.generate import Sample
from exptilt.sampling.sampler import Sampler, prompt_seeds
from exptilt.sampling.sampling_law import SamplingLaw

_SCORED = ("entropy", "kl", "log_ratio")
_OF_REFERENCE = 2**40
"""Added to the number of a rollout where the reference draws, so that it does not draw by the policy's numbers."""


@dataclass(frozen=True, kw_only=True)
class RolloutMaker:
    """Everything that a rollout is made with; `make` makes one."""

    sampler: Sampler
    reward: Reward | None
    """None where nothing is rewarded, and in all processes but the first, which asks the reward for all of them."""
    is_rewarded: bool
    policy: Any
    """The model that is trained."""
    reference: Any
    """The reference as a model."""
    tokenizer: Any
    law: SamplingLaw
    num_samples: int
    truncated_reward: TruncatedReward
    tokens: int | None
    """Most tokens scored at once."""
    world: World
    beside: Sampler | None = None
    """Draws as many completions from the reference, for a loss that compares the policy's with them; None for others."""

    def make(
        self, asked: Sequence[RolloutPrompt], *, number: int, seed: int, version: int, num_samples: int | None = None
    ) -> Rollout:
        """Draw, reward and score completions; every process gets the whole rollout.

        Which completions are drawn depends on seed, number and the place of each prompt, not on the processes.

        Args:
            asked: (P,) prompts.
            number: of the rollout.
            seed: of the run.
            version: of the policy's weights.
            num_samples: completions of each prompt, of the policy alone; default, those of training.

        Raises:
            ExptiltError: a prompt, the reward or the sampler cannot be used.
        """
        began = time.perf_counter()
        prompts = [one.group.prompt for one in asked]
        drawn = self._drawn(self.sampler, prompts, (seed, number), num_samples or self.num_samples)
        others = [list[Sample]() for _ in prompts]
        if self.beside is not None and num_samples is None:
            others = self._drawn(self.beside, prompts, (seed, number + _OF_REFERENCE), self.num_samples)
        by_prompt = [own + other for own, other in zip(drawn, others, strict=True)]
        samples = [one for some in by_prompt for one in some]
        rewards = iter(self._rewarded(asked, by_prompt))
        groups = [
            replace(
                one.group,
                completions=tuple(
                    _completion(sample, next(rewards), version if at < len(own) else None)
                    for at, sample in enumerate(some)
                ),
            )
            for one, some, own in zip(asked, by_prompt, drawn, strict=True)
        ]
        values, units = self._scored(groups)
        return Rollout(
            number=number,
            groups=with_behaviour(groups, values),
            ended=np.array([one.ended for one in samples]),
            reference=values - units["log_ratio"],
            kl=units["kl"],
            entropy=units["entropy"],
            drawn=np.concatenate([_logps(one) for one in samples]),
            seconds=time.perf_counter() - began,
            is_plain=self.law.is_plain,
        )

    def _drawn(
        self, sampler: Sampler, prompts: Sequence[Any], stream: tuple[int, int], num_samples: int
    ) -> list[list[Sample]]:
        """Samples of each prompt; processes share the prompts, or draw for all of them where weights are sharded."""
        together = hasattr(self.policy, ENTRANCE)
        rank, size = (0, 1) if together else (self.world.rank, self.world.size)
        mine = list(range(rank, len(prompts), size))

        def draw() -> list[Sample]:
            seeds = prompt_seeds(*stream, mine)
            asked = [prompts[at] for at in mine]
            return sampler.draw(asked, num_samples=num_samples, law=self.law, seeds=seeds) if mine else []

        drawn = self.world.all_or_none(draw)
        parts = [drawn] if together else self.world.gather(drawn)
        by_prompt: list[list[Sample]] = [[] for _ in prompts]
        for first, part in enumerate(parts):
            for one in part:
                by_prompt[first + one.prompt_index * size].append(one)
        return by_prompt

    def _rewarded(self, asked: Sequence[RolloutPrompt], by_prompt: Sequence[Sequence[Sample]]) -> Floats:
        """(C,) rewards, NaN where a completion is unscored; the first process asks for all, so that a reward may compare them."""
        samples = [(prompt, one) for prompt, some in zip(asked, by_prompt, strict=True) for one in some]
        if not self.is_rewarded:
            return np.full(len(samples), np.nan)

        def ask() -> Floats:
            answers = [answer_to(prompt, one.text(self.tokenizer), one.ids) for prompt, one in samples]
            if self.reward is None:
                raise ExptiltError("the first process has no reward")
            return rewards_of(self.reward, answers)

        rewards = self.world.first(self.world.first_alone(ask, patient=True))
        assert rewards is not None  # noqa: S101 - the first process gave it
        return with_cut(rewards, np.array([not one.ended for _, one in samples]), self.truncated_reward)

    def _scored(self, groups: Sequence[Group]) -> tuple[NDArray[np.float32], dict[str, NDArray[np.float32]]]:
        """(N,) log-probabilities under the policy, and of each token what `_SCORED` names; processes share the work."""
        numbered = [replace(group, id=str(at)) for at, group in enumerate(groups)]
        mine = shares(pack(numbered, self.tokens), self.world.size)[self.world.rank]
        found: dict[int, dict[str, NDArray[np.float32]]] = {}
        with evaluating(self.policy), evaluating(self.reference), torch.no_grad():
            for part in mine:
                units, lengths = beside(self.reference, lambda: unit_scores(self.policy, part, _SCORED, self.reference))  # noqa: B023
                arrays = {name: values.float().cpu().numpy() for name, values in units.items()}
                ends = [0, *accumulate(lengths.tolist())]
                first = 0
                for group in part:
                    last = first + len(group.completions)
                    found[int(group.id)] = {name: values[ends[first] : ends[last]] for name, values in arrays.items()}
                    first = last
        everyone = {at: units for part in self.world.gather(found) for at, units in part.items()}
        names = ("values", *_SCORED)
        joined = {name: np.concatenate([everyone[at][name] for at in range(len(groups))]) for name in names}
        return joined.pop("values"), joined


def _completion(drawn: Sample, reward: float, version: int | None) -> Completion:
    score = None if np.isnan(reward) else float(reward)
    return Completion(drawn.ids, np.ones(len(drawn.ids), dtype=np.bool_), score=score, version=version)


def _logps(drawn: Sample) -> NDArray[np.float32]:
    if drawn.logps is None:
        raise ExptiltError("the sampler gave no log-probabilities")
    return drawn.logps
