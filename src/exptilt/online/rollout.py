"""What one rollout is: completions of some prompts, rewarded, and scored by the policy that drew them and by the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from exptilt.data.groups import Completion, Credit, Group
from exptilt.losses.clipped_value import explained_variance
from exptilt.training.sums import Sums

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Rollout:
    """K completions of each of P prompts, all of one version of the policy; C = P * K, N tokens in all.

    The columns follow the completions of `groups`, group by group.
    """

    number: int
    groups: Sequence[Group]
    """(P,) with a score on each completion that was scored, and the trainer's own log-probabilities as `behaviour`."""
    ended: NDArray[np.bool_]
    """(C,) False where a completion was cut."""
    reference: NDArray[np.float32]
    """(N,) nats, log-probability of each token under the reference."""
    kl: NDArray[np.float32]
    """(N,) nats, KL(policy || reference) of the distribution each token was drawn from."""
    entropy: NDArray[np.float32]
    """(N,) nats, of that distribution."""
    drawn: NDArray[np.float32]
    """(N,) nats, log-probability of each token as the sampler says it."""
    seconds: float = 0.0
    """Time of drawing, rewarding and scoring."""
    is_plain: bool = True
    """Whether completions were drawn from the policy's own distribution; else their mean log-ratio is no KL."""

    @property
    def completions(self) -> list[Completion]:
        """All completions, in order."""
        return [completion for group in self.groups for completion in group.completions]

    @property
    def rewards(self) -> Floats:
        """(C,) NaN where a completion is unscored."""
        return np.array([np.nan if one.score is None else one.score for one in self.completions])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(C,) tokens."""
        return np.array([len(one.ids) for one in self.completions])

    @property
    def as_drawn(self) -> list[Group]:
        """The groups with the log-probabilities of the sampler as `behaviour`, where it is another program than the trainer."""
        return with_behaviour(self.groups, self.drawn)

    def sums_of(self, units: NDArray[np.float32]) -> Floats:
        """(C,) sums of (N,) numbers over each completion."""
        starts = np.cumsum(self.lengths) - self.lengths
        summed: Floats = np.add.reduceat(units.astype(np.float64), starts)
        return summed

    def by_prompt(self, column: NDArray[Any]) -> list[NDArray[Any]]:
        """A (C,) column cut into the completions of each prompt."""
        return np.split(column, np.cumsum([len(group.completions) for group in self.groups])[:-1])

    def of_policy(self) -> Rollout:
        """The part that the policy drew: all of it, unless the reference's completions stand beside."""
        is_own = np.array([one.version is not None for one in self.completions])
        if is_own.all():
            return self
        units = np.repeat(is_own, self.lengths)
        groups = [
            replace(one, completions=tuple(c for c in one.completions if c.version is not None)) for one in self.groups
        ]
        columns = {name: getattr(self, name)[units] for name in ("reference", "kl", "entropy", "drawn")}
        return replace(self, groups=groups, ended=self.ended[is_own], **columns)

    def measures(self) -> Sums:
        """What is logged of the policy's completions: rewards, KL, entropy, length and what was unusual, as sums and weights."""
        return self.of_policy()._measures()

    def _measures(self) -> Sums:
        rewards, lengths = self.rewards, self.lengths
        scored = rewards[~np.isnan(rewards)]
        of_prompts = [known for each in self.by_prompt(rewards) if len(known := each[~np.isnan(each)])]
        means = np.array([float(known.mean()) for known in of_prompts])
        policy = np.concatenate([np.zeros(0, np.float32), *(_behaviour(one) for one in self.completions)])
        sums, count = Sums(), len(lengths)
        sums.add("rollout/reward", float(means.sum()), len(means))
        if len(means) > 1:
            sums.add("rollout/reward_se", float(means.std(ddof=1)) / len(means) ** 0.5, 1)
        if self.is_plain:
            sums.add("rollout/kl", float(self.sums_of(self.kl).sum()), count)
            sums.add("rollout/k1", float((policy - self.reference).sum(dtype=np.float64)), count)
        sums.add("rollout/entropy", float(self.entropy.sum(dtype=np.float64)), len(self.entropy))
        sums.add("rollout/length", float(lengths.sum()), count)
        sums.add("rollout/truncated", float((~self.ended).sum()), count)
        sums.add("rollout/unscored", float(count - len(scored)), count)
        sums.add(
            "rollout/no_signal",
            float(sum(len(known) < 2 or np.ptp(known) == 0 for known in of_prompts)),
            len(self.groups),
        )
        sums.add("rollout/distinct", float(sum(_num_distinct(group) for group in self.groups)), count)
        self._measure_critic(sums)
        sums.add("rollout/mismatch", float(np.abs(policy - self.drawn).sum(dtype=np.float64)), len(self.drawn))
        return sums

    def _measure_critic(self, sums: Sums) -> None:
        """How well the critic knew beforehand what completions would earn, where there is one."""
        credits = [one.credit for one in self.completions if one.credit is not None]
        if credits:
            returns, values = (
                np.concatenate([getattr(one, name) for one in credits]) for name in ("returns", "values")
            )
            sums.add("rollout/value", float(values.sum(dtype=np.float64)), len(values))
            sums.add("rollout/return", float(returns.sum(dtype=np.float64)), len(returns))
            if np.ptp(returns):
                sums.add("rollout/explained_variance", explained_variance(values, returns), 1)

    def state(self) -> dict[str, Any]:
        """As tensors and numbers, for a checkpoint between two updates on it."""
        completions = self.completions
        flat = {
            "ids": np.concatenate([one.ids for one in completions]),
            "behaviour": np.concatenate([_behaviour(one) for one in completions]),
            "reference": self.reference,
            "kl": self.kl,
            "entropy": self.entropy,
            "drawn": self.drawn,
        }
        credits = [one.credit for one in completions if one.credit is not None]
        if credits:
            for name in ("advantages", "returns", "values"):
                flat[name] = np.concatenate([getattr(credit, name) for credit in credits])
        columns = {"lengths": self.lengths, "rewards": self.rewards, "ended": self.ended}
        return {
            "number": self.number,
            "version": completions[0].version,
            "is_plain": self.is_plain,
            "own": [one.version is not None for one in completions],
            "sizes": [len(group.completions) for group in self.groups],
            **{name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in (flat | columns).items()},
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any], prompts: Sequence[Group]) -> Rollout:
        """The rollout that `state` described.

        Args:
            state: of it.
            prompts: (P,) what it asked.
        """
        arrays = {name: value.numpy() for name, value in state.items() if isinstance(value, torch.Tensor)}
        cuts = np.cumsum(arrays["lengths"])[:-1]
        parts = {
            name: np.split(arrays[name], cuts)
            for name in ("ids", "behaviour", "advantages", "returns", "values")
            if name in arrays
        }
        completions = [
            Completion(
                ids=ids,
                counted=np.ones(len(ids), dtype=np.bool_),
                score=None if np.isnan(arrays["rewards"][at]) else float(arrays["rewards"][at]),
                behaviour=parts["behaviour"][at],
                version=state["version"] if state["own"][at] else None,
                credit=Credit(parts["advantages"][at], parts["returns"][at], parts["values"][at])
                if "returns" in parts
                else None,
            )
            for at, ids in enumerate(parts["ids"])
        ]
        remaining = iter(completions)
        groups = [
            replace(prompt, completions=tuple(next(remaining) for _ in range(size)))
            for prompt, size in zip(prompts, state["sizes"], strict=True)
        ]
        return cls(
            number=state["number"],
            groups=groups,
            ended=arrays["ended"],
            reference=arrays["reference"],
            kl=arrays["kl"],
            entropy=arrays["entropy"],
            drawn=arrays["drawn"],
            is_plain=state["is_plain"],
        )


def with_behaviour(groups: Sequence[Group], values: NDArray[np.float32]) -> list[Group]:
    """Groups whose completions have these log-probabilities (N,) of their tokens under what drew them."""
    lengths = [len(one.ids) for group in groups for one in group.completions]
    parts = iter(np.split(values, np.cumsum(lengths)[:-1]))
    return [
        replace(group, completions=tuple(replace(one, behaviour=next(parts)) for one in group.completions))
        for group in groups
    ]


def _behaviour(completion: Completion) -> NDArray[np.float32]:
    assert completion.behaviour is not None  # noqa: S101 - every completion of a rollout has it
    return completion.behaviour


def _num_distinct(group: Group) -> int:
    return len({completion.ids.tobytes() for completion in group.completions})
