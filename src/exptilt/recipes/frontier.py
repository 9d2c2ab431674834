"""Reward against sequence-level KL of trained policies, beside the theoretical optimum of the same reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exptilt.evaluate.best_of_n import best_of_n
from exptilt.evaluate.frontier import OptimalFrontier
from exptilt.evaluate.intervals import mean, paired_difference
from exptilt.evaluate.kl import estimate_kl
from exptilt.evaluate.provenance import Provenance
from exptilt.policies.scoring import score_all
from exptilt.recipes.yardstick import SHOWN, Measurement, Yardstick
from exptilt.sampling.generate import samples_as_groups
from exptilt.sampling.law import SamplingLaw
from exptilt.types import LogProbs

_BEST_OF = (2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True)
class PolicyPoint:
    """Which policy a point on the plane is."""

    name: str
    method: str
    beta: float | None
    steps: int
    run: str
    """Folder of its run."""
    seed: int | None = None
    """Of the run."""
    final: bool = True
    """Whether this is the run's end, not a checkpoint on its way."""


@dataclass(frozen=True)
class ReferencePool:
    """The reference's own samples, which show the optimum and best-of-n."""

    rewards: NDArray[np.float64]
    """(X, M)."""
    log_probs: NDArray[np.float64]
    """(X, M) log pi_ref(y|x) of the samples, nats."""
    prompts: Sequence[str]
    """(X,) as text."""
    texts: Sequence[str]
    """The first sample of each of the first prompts."""
    law: SamplingLaw
    identity: str
    """Fingerprint of the reference's weights."""

    @classmethod
    def draw(cls, yardstick: Yardstick, num_samples: int) -> ReferencePool:
        """Sample the reference on every prompt, and score the samples with it."""
        samples = yardstick.sample(yardstick.reference, num_samples, stream=0)
        logs = LogProbs.cat(score_all(yardstick.reference, samples_as_groups(samples), progress="reference")).sum()
        shape = (len(yardstick.prompts), num_samples)
        return cls(
            rewards=yardstick.rewards(samples).reshape(shape),
            log_probs=logs.double().numpy().reshape(shape),
            prompts=yardstick.openings,
            texts=[one.text(yardstick.tokenizer) for one in samples if one.sample_index == 0][:SHOWN],
            law=yardstick.law,
            identity=yardstick.provenance.reference,
        )

    @property
    def provenance(self) -> Provenance:
        """What a policy's numbers must share to be compared."""
        names = [f"{index}: {text}" for index, text in enumerate(self.prompts)]
        return Provenance(law=self.law, reference=self.identity, prompts=names)


@dataclass
class FrontierStudy:
    """Places policies one by one against the optimum that the reference's samples show."""

    pool: ReferencePool
    reward_name: str
    points: list[dict[str, Any]] = field(default_factory=list)
    measured: list[Measurement] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.optimum = OptimalFrontier.from_samples(self.pool.rewards, provenance=self.pool.provenance)

    def add(self, point: PolicyPoint, found: Measurement, provenance: Provenance) -> None:
        """Place a policy on the plane with intervals over prompts.

        Raises:
            ValueError: it was measured against another reference, on other prompts or under another sampling law.
        """
        kl = estimate_kl(found.kl, found.owners, self.pool.law, k1=found.k1)
        by_prompt, base = found.by_prompt("reward").mean(axis=1), self.pool.rewards.mean(axis=1)
        place = self.optimum.fraction(kl.by_prompt, by_prompt, provenance)
        estimates = {
            "kl": kl.kl,
            "kl_check": kl.k1,
            "reward": mean(found.reward, found.owners),
            "gain": paired_difference(by_prompt, base, np.arange(len(by_prompt))),
            "fraction": place.reward_fraction,
            "kl_fraction": place.kl_fraction,
            "above_optimum": place.excess,
            "gap": self._gap(kl.by_prompt, by_prompt, provenance),
            "length": mean(found.length, found.owners),
            "ended": mean(found.ended, found.owners),
        }
        shown = {name: one.as_dict() if one is not None else None for name, one in estimates.items()}
        self.points.append(asdict(point) | shown | {"solid": place.solid, "notes": list(place.notes)})
        self.measured.append(found)

    def _gap(self, kl: NDArray[np.float64], reward: NDArray[np.float64], provenance: Provenance) -> Any:
        """Beta * KL(policy || optimum) at the beta whose optimum has the policy's KL; None where no beta has."""
        try:
            beta = self.optimum.beta_at(float(kl.mean()))
        except ValueError:
            return None
        return self.optimum.gap(beta, kl, reward, provenance)

    def content(self) -> dict[str, Any]:
        """Content of frontier.json."""
        curve = self.optimum.as_dict()
        points, rewards = curve["points"], self.pool.rewards
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
                {
                    "n": found.n,
                    "kl": float(found.kls.mean()),
                    "kl_is": "plug-in estimate",
                    "kl_bound": found.bound,
                    "reward": found.reward.as_dict(),
                }
                for found in best_of_n(rewards, [n for n in _BEST_OF if 2 * n <= rewards.shape[1]], self.pool.log_probs)
            ],
        }

    def side_by_side(self) -> list[dict[str, Any]]:
        """What the reference and the policy with the highest final reward said first, with their rewards."""
        places = [place for place, point in enumerate(self.points) if point["final"]]
        if not places:
            return []
        found = self.measured[max(places, key=lambda place: self.points[place]["reward"]["value"])]
        rows = zip(self.pool.prompts, found.texts, self.pool.texts, strict=False)
        scores = zip(found.by_prompt("reward")[:, 0], self.pool.rewards[:, 0], strict=True)
        return [
            {
                "prompt": prompt,
                "policy": said,
                "reference": before,
                "policy_score": float(mine),
                "reference_score": float(theirs),
            }
            for (prompt, said, before), (mine, theirs) in zip(rows, scores, strict=False)
        ]
