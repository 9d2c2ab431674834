"""Proposals: samples of trained policies, pooled with the reference's; they show the optimum at KLs beyond its own samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exptilt.data.groups import Group
from exptilt.disk import writing
from exptilt.evaluation.frontier.comparable import Provenance
from exptilt.evaluation.frontier.optimum import OptimalFrontier
from exptilt.policies.scoring import score_all
from exptilt.studies.bench import Yardstick
from exptilt.types import LogProbs

_STREAM = 2_000_000
"""Streams of the proposals' samples begin here, beyond those a policy is measured with."""


@dataclass(frozen=True)
class Proposals:
    """Samples of P policies for X prompts, m of each, with the log-probability of every pooled sample under every model.

    The reference's M samples are the first columns; each policy's samples follow.
    """

    names: Sequence[str]
    """(P,)."""
    rewards: NDArray[np.float64]
    """(X, P m) of the policies' samples."""
    log_reference: NDArray[np.float64]
    """(X, M + P m), nats."""
    log_policies: NDArray[np.float64]
    """(P, X, M + P m), nats."""

    @classmethod
    def draw(
        cls, yardstick: Yardstick, policies: Mapping[str, Callable[[], Any]], own: Sequence[Group], num_samples: int
    ) -> Proposals:
        """Sample every policy, and score all samples under all models.

        Args:
            yardstick: reference, prompts, reward and sampling law.
            policies: functions that load each policy, by name; one policy at a time is in memory beside the reference.
            own: the reference's samples as groups, in the order of the prompts.
            num_samples: number of samples of every policy for each prompt.
        """
        drawn = [yardstick.draw(load(), num_samples, _STREAM + index) for index, load in enumerate(policies.values())]
        num = len(yardstick.prompts)
        parts = [list(own), *(draws.groups for draws in drawn)]

        def under(model: Any) -> NDArray[np.float64]:
            return np.concatenate([_sample_logps(model, part, num) for part in parts], axis=1)

        return cls(
            names=list(policies),
            rewards=np.concatenate([draws.by_prompt(yardstick.rewards(draws)) for draws in drawn], axis=1),
            log_reference=under(yardstick.reference),
            log_policies=np.stack([under(load()) for load in policies.values()]),
        )

    @property
    def num_own(self) -> int:
        """M, the number of the reference's samples."""
        return int(self.log_reference.shape[1] - self.rewards.shape[1])

    @property
    def num_samples(self) -> int:
        """Samples of each policy for each prompt."""
        return int(self.rewards.shape[1] // len(self.names))

    def optimum(self, rewards: NDArray[np.float64], provenance: Provenance) -> OptimalFrontier:
        """Compute the frontier from all samples.

        Args:
            rewards: (X, M) of the reference's samples.
            provenance: provenance of all samples.
        """
        return OptimalFrontier.from_mixture(
            np.concatenate([rewards, self.rewards], axis=1),
            self.log_reference,
            self.log_policies,
            [self.num_own, *[self.num_samples] * len(self.names)],
            provenance=provenance,
        )

    def implicit_rewards(self) -> dict[str, NDArray[np.float64]]:
        """(X, M) log-ratios of each policy to the reference on the reference's own samples, nats."""
        reference_columns = slice(self.num_own)
        return {
            name: logs[:, reference_columns] - self.log_reference[:, reference_columns]
            for name, logs in zip(self.names, self.log_policies, strict=True)
        }

    def save(self, path: Path, digest: str) -> None:
        """Write one file at once, under a digest of everything it depends on."""
        with writing(path) as file:
            np.savez(
                file,
                digest=np.array(digest),
                names=np.array(self.names),
                rewards=self.rewards,
                log_reference=self.log_reference,
                log_policies=self.log_policies,
            )

    @classmethod
    def load(cls, path: Path, digest: str) -> Proposals | None:
        """Read a file that `save` wrote under this digest; None if there is none."""
        if not path.exists():
            return None
        with np.load(path) as stored:
            if str(stored["digest"]) != digest:
                return None
            arrays = {name: stored[name] for name in ("rewards", "log_reference", "log_policies")}
            return cls(names=stored["names"].tolist(), **arrays)


def _sample_logps(model: Any, groups: Sequence[Group], num_prompts: int) -> NDArray[np.float64]:
    """(X, samples) log-probabilities of whole samples."""
    sums = LogProbs.cat(score_all(model, groups, progress="pooled samples")).sum()
    return np.asarray(sums.double().numpy()).reshape(num_prompts, -1)
