"""The frontier study: reward against sequence-level KL of trained policies, beside the reference's theoretical optimum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exptilt.evaluation.diversity import diversity
from exptilt.evaluation.frontier.best_of_n import best_of_n
from exptilt.evaluation.frontier.comparable import Provenance
from exptilt.evaluation.frontier.optimum import OptimalFrontier
from exptilt.evaluation.intervals import Clusters, mean, paired_difference, ratio
from exptilt.evaluation.kl import estimate_kl
from exptilt.evaluation.pairs.accuracy import share_above_zero
from exptilt.evaluation.variance_components import variance_components
from exptilt.policies.scoring import score_all
from exptilt.run_folder.estimate_record import Estimate
from exptilt.run_folder.evaluation_record import Diversity
from exptilt.run_folder.frontier_record import (
    BestOfNPoint,
    Components,
    Frontier,
    Optimum,
    Point,
    Pooled,
    SeedSpread,
)
from exptilt.run_folder.samples_record import SideBySide
from exptilt.run_folder.study_record import MeasuredSamples, ReferenceSamples
from exptilt.sampling.draws import Draws
from exptilt.sampling.sampling_law import SamplingLaw
from exptilt.studies.bench import SHOWN, Yardstick
from exptilt.studies.other_rewards import band, best_of_n_record, proxy_record
from exptilt.studies.proposals import Proposals
from exptilt.types import LogProbs

_BEST_OF = (2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True)
class PolicyPoint:
    """The policy of a point on the plane: its run, method, beta, steps and seed."""

    name: str
    method: str
    beta: float | None
    steps: int
    run: str
    """Folder of its run."""
    seed: int | None = None
    """Seed of the run."""
    objective: str | None = None
    """What runs that differ only in their seed have in common."""
    final: bool = True
    """Whether this is the run's end, not a checkpoint on its way."""


@dataclass(frozen=True)
class ReferencePool:
    """The reference's own samples, from which the optimum and best-of-n are computed."""

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
        draws = yardstick.draw(yardstick.reference, num_samples, stream=0)
        logs = LogProbs.cat(score_all(yardstick.reference, draws.groups, progress="reference")).sum()
        return cls(
            rewards=draws.by_prompt(yardstick.rewards(draws)),
            log_probs=draws.by_prompt(logs.double().numpy()),
            prompts=yardstick.openings,
            texts=[draws.texts[at] for at in draws.first[:SHOWN]],
            law=yardstick.law,
            identity=yardstick.provenance.reference,
            ids=[ids.tolist() for ids in draws.ids],
        )

    @classmethod
    def read(cls, record: ReferenceSamples, law: SamplingLaw) -> ReferencePool:
        """Read the pool from its `record`."""
        return cls(
            rewards=np.asarray(record.rewards, dtype=np.float64),
            log_probs=np.asarray(record.log_probs, dtype=np.float64),
            prompts=record.prompts,
            texts=record.texts,
            law=law,
            identity=record.identity,
            ids=record.ids,
        )

    def record(self, measured_with: str) -> ReferenceSamples:
        """The record for reference.json, under a digest of everything the samples depend on."""
        return ReferenceSamples(
            measured_with=measured_with,
            rewards=_rows(self.rewards),
            log_probs=_rows(self.log_probs),
            prompts=tuple(self.prompts),
            texts=tuple(self.texts),
            identity=self.identity,
            ids=tuple(tuple(ids) for ids in self.ids),
        )

    def draws(self, yardstick: Yardstick) -> Draws:
        """The samples as draws."""
        each, ends = self.rewards.shape[1], self.law.eos_ids or ()
        places = np.arange(len(self.ids))
        ids = [np.array(completion, dtype=np.int32) for completion in self.ids]
        return Draws(
            prompts=yardstick.prompts,
            prompt_index=places // each,
            sample_index=places % each,
            ids=ids,
            texts=yardstick.read(ids),
            length=np.array([len(completion) for completion in ids], dtype=np.int64),
            ended=np.array([completion[-1] in ends for completion in ids], dtype=np.bool_),
            law=self.law,
        )

    @property
    def provenance(self) -> Provenance:
        """The provenance that a policy's numbers must share to be compared."""
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
    """(X, M) other rewards of the reference's samples, by name."""
    points: list[Point] = field(default_factory=list)
    measured: list[MeasuredSamples] = field(default_factory=list)

    def __post_init__(self) -> None:
        origin = self.pool.provenance
        if self.proposals is None:
            self.optimum = OptimalFrontier.from_samples(self.pool.rewards, provenance=origin)
        else:
            self.optimum = self.proposals.optimum(self.pool.rewards, origin)

    def add(self, point: PolicyPoint, samples: MeasuredSamples, provenance: Provenance) -> None:
        """Place a policy on the plane with intervals over prompts.

        Raises:
            ValueError: the policy was measured against another reference, on other prompts or under another sampling law.
        """
        kl = estimate_kl(samples.kl, samples.owners, self.pool.law, k1=samples.k1)
        by_prompt, base = samples.by_prompt("reward").mean(axis=1), self.pool.rewards.mean(axis=1)
        standing = self.optimum.fraction(kl.by_prompt, by_prompt, provenance)
        self.points.append(
            Point(
                **asdict(point),
                kl=kl.kl,
                kl_check=kl.k1,
                reward=mean(samples.reward, samples.owners),
                gain=paired_difference(by_prompt, base, np.arange(len(by_prompt))),
                fraction=standing.reward_fraction,
                kl_fraction=standing.kl_fraction,
                above_optimum=standing.excess,
                gap=self._gap(kl.by_prompt, by_prompt, provenance),
                length=mean(samples.length, samples.owners),
                ended=share_above_zero(2 * np.asarray(samples.ended) - 1, Clusters(samples.owners)),
                diversity=_diversity(samples),
                solid=standing.solid,
                notes=standing.notes,
            )
        )
        self.measured.append(samples)

    def _gap(self, kl: NDArray[np.float64], reward: NDArray[np.float64], provenance: Provenance) -> Estimate | None:
        """Beta * KL(policy || optimum) at the beta whose optimum has the policy's KL; None if no beta has."""
        try:
            beta = self.optimum.beta_at(float(kl.mean()))
        except ValueError:
            return None
        return self.optimum.gap(beta, kl, reward, provenance)

    def content(self, **study: Any) -> Frontier:
        """The content of frontier.json, with further knowledge of the study: its `command`, its `facts`."""
        rewards = self.pool.rewards
        kinds = best_of_n(rewards, [n for n in _BEST_OF if 2 * n <= rewards.shape[1]], self.pool.log_probs)
        return Frontier(
            reward_name=self.reward_name,
            optimum=self._optimum(),
            log_m=float(np.log(rewards.shape[1])) if self.proposals is None else None,
            pooled=self._pooled(),
            limit_kl=self.optimum.limit_kl if np.isfinite(self.optimum.limit_kl) else None,
            reference_reward=self.optimum.reference_reward,
            num_prompts=rewards.shape[0],
            num_samples=rewards.shape[1],
            points=tuple(self.points),
            spreads=self._spreads(),
            reference_diversity=self._reference_diversity(),
            proxies=tuple(proxy_record(name, values, rewards) for name, values in self.proxies.items()),
            best_of_n=tuple(
                BestOfNPoint(
                    n=best.n,
                    kl=float(best.kls.mean()),
                    kl_is="plug-in estimate",
                    kl_bound=best.bound,
                    reward=best.reward,
                )
                for best in kinds
            ),
            best_of_n_by=tuple(
                best_of_n_record(name, values, rewards, self.pool.log_probs)
                for name, values in {self.reward_name: rewards, **self.proxies}.items()
            ),
            **study,
        )

    def _optimum(self) -> Optimum:
        """The optimum at the KLs that the samples show, in rising order."""
        kl, rewards = self.optimum.drawn()
        values, low, high = band(rewards)
        return Optimum(
            kl=tuple(kl.tolist()),
            reward=tuple(np.maximum.accumulate(values).tolist()),
            low=low,
            high=high,
            trusted=tuple((kl <= self.optimum.solid_kl).tolist()),
        )

    def _spreads(self) -> tuple[SeedSpread, ...]:
        """Both kinds of spread of every objective that was trained with several seeds."""
        ends: dict[str, list[int]] = {}
        for place, point in enumerate(self.points):
            if point.final and point.objective is not None and point.seed is not None:
                ends.setdefault(point.objective, []).append(place)

        def spread(name: str, places: list[int]) -> Components:
            return variance_components([self.measured[place].by_prompt(name).mean(axis=1) for place in places])

        return tuple(
            SeedSpread(
                objective=objective,
                seeds=tuple(self.points[place].seed or 0 for place in places),
                reward=spread("reward", places),
                kl=spread("kl", places),
            )
            for objective, places in ends.items()
            if len(places) > 1
        )

    def _reference_diversity(self) -> Diversity:
        prompts, each = self.pool.rewards.shape
        owners, ids = np.repeat(np.arange(prompts), each), [np.array(one, dtype=np.int32) for one in self.pool.ids]
        return diversity(ids, self.pool.log_probs.ravel(), [len(one) for one in ids], owners)

    def _pooled(self) -> Pooled | None:
        if self.proposals is None:
            return None
        return Pooled(policies=tuple(self.proposals.names), samples_each=self.proposals.num_samples)

    def side_by_side(self) -> tuple[SideBySide, ...]:
        """First samples of the reference and of the policy with the highest final reward, with their rewards."""
        places = [index for index, point in enumerate(self.points) if point.final]
        if not places:
            return ()
        best = self.measured[max(places, key=lambda index: self.points[index].reward.value or 0.0)]
        rows = zip(self.pool.prompts, best.texts, self.pool.texts, strict=False)
        scores = zip(best.by_prompt("reward")[:, 0], self.pool.rewards[:, 0], strict=True)
        return tuple(
            SideBySide(
                prompt=prompt,
                policy=completion,
                reference=before,
                policy_score=float(mine),
                reference_score=float(theirs),
            )
            for (prompt, completion, before), (mine, theirs) in zip(rows, scores, strict=False)
        )


def _diversity(found: MeasuredSamples) -> Diversity | None:
    """Of one policy's samples; None where the file is older than the measure."""
    if found.logps is None or found.distinct is None:
        return None
    return Diversity(
        entropy_per_token=ratio(-np.asarray(found.logps), found.length, found.owners),
        distinct_per_prompt=mean(found.distinct, np.arange(found.num_prompts)),
        num_samples=len(found.logps) // found.num_prompts,
    )


def _rows(values: NDArray[np.float64]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in values.tolist())
