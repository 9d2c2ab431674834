"""Reward against sequence-level KL of trained policies, beside the theoretical optimum of the same reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exptilt.data.groups import TokenIds
from exptilt.evaluate.best_of_n import best_of_n
from exptilt.evaluate.frontier import OptimalFrontier
from exptilt.evaluate.intervals import mean, paired_difference
from exptilt.evaluate.kl import estimate_kl
from exptilt.policies.divergence import sequence_kl
from exptilt.recipes.measure import side_by_side
from exptilt.sampling.generate import Sample, sample, samples_as_groups
from exptilt.sampling.law import SamplingLaw

_BEST_OF = (2, 4, 8, 16, 32, 64)
_SHOWN = 8
"""Side-by-sides kept per report."""


@dataclass(frozen=True)
class Yardstick:
    """What every policy is measured with: one reference, one set of prompts, one reward, one sampling law."""

    reference: Any
    tokenizer: Any
    prompts: Sequence[TokenIds]
    reward: Callable[[str], float]
    """Of prompt and completion together, as text."""
    law: SamplingLaw
    seed: int

    def sample(self, model: Any, num_samples: int, stream: int) -> list[Sample]:
        """Samples of a model on every prompt; streams are independent of each other."""
        seed = self.seed + 1000 * stream
        return sample(model, self.tokenizer, self.prompts, num_samples=num_samples, law=self.law, seed=seed)

    def rewards(self, samples: Sequence[Sample]) -> NDArray[np.float64]:
        """(N,) rewards of samples."""
        openings = [self.tokenizer.decode(prompt.tolist(), skip_special_tokens=True) for prompt in self.prompts]
        return np.array([self.reward(f"{openings[one.prompt_index]} {one.text(self.tokenizer)}") for one in samples])


@dataclass(frozen=True)
class PolicyPoint:
    """Which policy a point on the plane is."""

    name: str
    method: str
    beta: float | None
    steps: int
    run: str
    """Folder of its run."""


@dataclass
class FrontierStudy:
    """Measures policies one by one against the optimum that reference samples show."""

    yardstick: Yardstick
    reward_name: str
    pool: int
    """Reference samples per prompt."""
    points: list[dict[str, Any]] = field(default_factory=list)
    drawn: dict[str, list[Sample]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.reference_samples = self.yardstick.sample(self.yardstick.reference, self.pool, stream=0)
        rewards = self.yardstick.rewards(self.reference_samples)
        self.reference_rewards = rewards.reshape(len(self.yardstick.prompts), self.pool)
        self.optimum = OptimalFrontier.from_samples(self.reference_rewards)

    def measure(self, point: PolicyPoint, model: Any, num_samples: int) -> None:
        """Sample a policy, and place it on the plane with intervals over prompts."""
        samples = self.yardstick.sample(model, num_samples, stream=len(self.points) + 1)
        self.drawn[point.name] = samples
        owners = [one.prompt_index for one in samples]
        rewards = self.yardstick.rewards(samples)
        sums = sequence_kl(model, self.yardstick.reference, samples_as_groups(samples))
        kl = estimate_kl(sums.kl.numpy(), owners, self.yardstick.law, k1=sums.k1.numpy())
        by_prompt = rewards.reshape(len(self.yardstick.prompts), num_samples).mean(axis=1)
        base, everyone = self.reference_rewards.mean(axis=1), np.arange(len(by_prompt))
        place = self.optimum.fraction(kl.by_prompt, by_prompt)
        estimates = {
            "kl": kl.kl,
            "kl_check": kl.k1,
            "reward": mean(rewards, owners),
            "gain": paired_difference(by_prompt, base, everyone),
            "fraction": place.reward_fraction,
            "kl_fraction": place.kl_fraction,
            "above_optimum": place.excess,
            "length": mean([len(one.ids) for one in samples], owners),
            "ended": mean([float(one.ended) for one in samples], owners),
        }
        shown = {name: found.as_dict() if found is not None else None for name, found in estimates.items()}
        self.points.append(asdict(point) | shown | {"solid": place.solid, "notes": list(place.notes)})

    def content(self) -> dict[str, Any]:
        """Content of frontier.json."""
        curve = self.optimum.as_dict()
        points, rewards = curve["points"], self.reference_rewards
        order = np.argsort(points["kl"])
        columns = {name: [points[name][at] for at in order] for name in ("kl", "reward", "reward_low", "reward_high")}
        return {
            "reward_name": self.reward_name,
            "optimum": {
                "kl": columns["kl"],
                "reward": columns["reward"],
                "low": columns["reward_low"],
                "high": columns["reward_high"],
                "trusted": [bool(kl <= curve["solid_kl"]) for kl in columns["kl"]],
            },
            "log_m": float(np.log(rewards.shape[1])),
            "limit_kl": curve["limit_kl"],
            "reference_reward": curve["reference_reward"],
            "num_prompts": rewards.shape[0],
            "num_samples": rewards.shape[1],
            "points": self.points,
            "best_of_n": [
                {"n": found.n, "kl": float(found.kls.mean()), "reward": found.reward.as_dict(), "kl_is": "upper bound"}
                for found in best_of_n(rewards, [n for n in _BEST_OF if n <= self.pool])
            ],
        }

    def side_by_side(self, name: str) -> list[dict[str, Any]]:
        """A few prompts with what reference and policy said, with their rewards."""
        policy = [one for one in self.drawn[name] if one.sample_index == 0][:_SHOWN]
        first = {one.prompt_index: one for one in self.reference_samples if one.sample_index == 0}
        reference = [first[one.prompt_index] for one in policy]
        rows = side_by_side(self.yardstick.tokenizer, policy, reference)
        scores = zip(rows, self.yardstick.rewards(policy), self.yardstick.rewards(reference), strict=True)
        return [row | {"policy_score": float(a), "reference_score": float(b)} for row, a, b in scores]
