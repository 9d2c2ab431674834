"""Reward against sequence-level KL of trained policies, beside the theoretical optimum of the same reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exptilt.errors import DataError
from exptilt.evaluation.frontier.best_of_n import best_of_n
from exptilt.evaluation.frontier.comparable import Provenance
from exptilt.evaluation.frontier.optimum import OptimalFrontier
from exptilt.evaluation.frontier.proxy import proxy_curve
from exptilt.evaluation.intervals import mean, paired_difference
from exptilt.evaluation.kl import estimate_kl
from exptilt.policies.scoring import score_all
from exptilt.sampling.generate import Sample, samples_as_groups
from exptilt.sampling.sampling_law import SamplingLaw
from exptilt.studies.bench import SHOWN, Measurement, Yardstick
from exptilt.studies.proposals import Proposals
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
    ids: Sequence[Sequence[int]]
    """(X M,) the samples as tokens, prompt by prompt, so that trained policies can score them."""

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
            ids=[one.ids.tolist() for one in samples],
        )

    def samples(self, yardstick: Yardstick) -> list[Sample]:
        """The samples as they were drawn."""
        each, ends = self.rewards.shape[1], self.law.eos_ids or ()
        return [
            Sample(
                prompt_index=place // each,
                sample_index=place % each,
                prompt=yardstick.prompts[place // each],
                ids=np.array(ids, dtype=np.int32),
                ended=ids[-1] in ends,
                law=self.law,
            )
            for place, ids in enumerate(self.ids)
        ]

    @property
    def provenance(self) -> Provenance:
        """What a policy's numbers must share to be compared."""
        names = [f"{index}: {text}" for index, text in enumerate(self.prompts)]
        return Provenance(law=self.law, reference=self.identity, prompts=names)


@dataclass
class FrontierStudy:
    """Places policies one by one against the optimum that the samples show."""

    pool: ReferencePool
    reward_name: str
    proposals: Proposals | None = None
    """Trained policies whose samples join the reference's, so that the optimum is known at larger KLs."""
    proxies: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """By name, (X, M) what other rewards say of the reference's samples."""
    points: list[dict[str, Any]] = field(default_factory=list)
    measured: list[Measurement] = field(default_factory=list)

    def __post_init__(self) -> None:
        origin = self.pool.provenance
        if self.proposals is None:
            self.optimum = OptimalFrontier.from_samples(self.pool.rewards, provenance=origin)
        else:
            self.optimum = self.proposals.optimum(self.pool.rewards, origin)

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
            "log_m": float(np.log(rewards.shape[1])) if self.proposals is None else None,
            "pooled": self._pooled(),
            "limit_kl": curve["limit_kl"],
            "reference_reward": curve["reference_reward"],
            "num_prompts": rewards.shape[0],
            "num_samples": rewards.shape[1],
            "points": self.points,
            "proxies": [self._proxy(name, values) for name, values in self.proxies.items()],
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

    def _pooled(self) -> dict[str, Any] | None:
        if self.proposals is None:
            return None
        return {"policies": list(self.proposals.names), "samples_each": self.proposals.num_samples}

    def _proxy(self, name: str, values: NDArray[np.float64]) -> dict[str, Any]:
        """What the true reward would do if this proxy were optimised.

        Raises:
            DataError: the proxy says the same of all samples.
        """
        try:
            found = proxy_curve(values, self.pool.rewards)
        except ValueError as error:
            raise DataError(f"proxy {name!r}: {error}") from None
        best = int(np.argmax([point.value for point in found.gold]))
        return {
            "name": name,
            "kl": found.kl.tolist(),
            "proxy": found.proxy.tolist(),
            "gold": [point.value for point in found.gold],
            "low": [point.low for point in found.gold],
            "high": [point.high for point in found.gold],
            "solid_kl": found.solid_kl,
            "best_kl": found.best_kl,
            "best": found.gold[best].as_dict(),
            "end": found.gold[-1].as_dict(),
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
