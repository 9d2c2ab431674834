"""What a critic adds to a rollout: by how much each token was better than expected, before the first update on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exptilt.data.batching import pack, shares
from exptilt.data.groups import Completion, Credit, Group
from exptilt.losses.ppo import PPO
from exptilt.online.rollout import Rollout
from exptilt.policies.critic import Critic
from exptilt.policies.engine.forward import evaluating
from exptilt.processes.world import World
from exptilt.training.objective import Objective
from exptilt.types import LogProbs

Floats32 = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Crediting:
    """Gives every scored completion of a rollout its credit; every process computes the same."""

    objective: Objective
    """Of the policy: its loss says how credit is given, its state holds the beta of the moment."""
    critic: Critic
    tokens: int | None
    """Most tokens valued at once."""
    world: World

    def __call__(self, rollout: Rollout) -> Rollout:
        """The rollout with advantages, returns and values of all tokens of completions that were scored."""
        values = self._values(rollout.groups)
        scored = ~np.isnan(rollout.rewards)
        counted = np.repeat(scored, rollout.lengths)
        lengths = torch.from_numpy(rollout.lengths[scored])
        behaviour = np.concatenate([_behaviour(one) for one in rollout.completions])[counted]
        loss: PPO = self.objective.loss
        credit = loss.credit(
            LogProbs(values=_doubles(behaviour), lengths=lengths),
            LogProbs(values=_doubles(rollout.reference[counted]), lengths=lengths),
            torch.from_numpy(rollout.rewards[scored]),
            _doubles(values[counted]),
            self.objective.state if loss.is_stateful else None,
        )
        columns = (credit.advantages.float().numpy(), credit.returns.float().numpy(), values[counted])
        parts = zip(*(np.split(column, np.cumsum(lengths.numpy())[:-1]) for column in columns), strict=True)
        credits = (Credit(*each) for each in parts)
        return replace(rollout, groups=[_credited(group, credits) for group in rollout.groups])

    def _values(self, groups: Sequence[Group]) -> Floats32:
        """(N,) the critic's values of all tokens; processes share the work."""
        numbered = [replace(group, id=str(at)) for at, group in enumerate(groups)]
        mine = shares(pack(numbered, self.tokens), self.world.size)[self.world.rank]
        found: dict[int, Floats32] = {}
        with evaluating(self.critic.model), torch.no_grad():
            for part in mine:
                values = self.critic(part).tokens().float().cpu().numpy()
                sizes = [sum(len(one.ids) for one in group.completions) for group in part]
                found |= zip((int(group.id) for group in part), np.split(values, np.cumsum(sizes)[:-1]), strict=True)
        everyone = {at: values for some in self.world.gather(found) for at, values in some.items()}
        return np.concatenate([everyone[at] for at in range(len(groups))])


def _credited(group: Group, credits: Iterator[Credit]) -> Group:
    """The group with the next credits for those of its completions that were scored."""
    completions = tuple(one if one.score is None else replace(one, credit=next(credits)) for one in group.completions)
    return replace(group, completions=completions)


def _behaviour(completion: Completion) -> Floats32:
    assert completion.behaviour is not None  # noqa: S101 - every completion of a rollout has it
    return completion.behaviour


def _doubles(numbers: Floats32) -> Tensor:
    return torch.from_numpy(numbers.astype(np.float64))
