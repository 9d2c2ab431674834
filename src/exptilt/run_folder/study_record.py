"""Files of a study's folder beside frontier.json: what was measured once, and must not be measured again."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from exptilt.run_folder.record import FileRecord


class MeasuredSamples(FileRecord):
    """points/NAME.json: samples of one policy as numbers, prompt by prompt; every column has X * num_samples entries."""

    measured_with: str | None = None
    """Digest of everything the numbers depend on."""
    num_prompts: int
    """X."""
    kl: tuple[float, ...]
    """Rao-Blackwellised KL(policy || reference) of each sample, nats."""
    k1: tuple[float, ...]
    """Log-ratio of each sample, nats."""
    reward: tuple[float, ...]
    length: tuple[int, ...]
    """Tokens, the end token included."""
    ended: tuple[float, ...]
    """1 where the sample ended by itself."""
    logps: tuple[float, ...] | None = None
    """Log-probability of each sample under the policy that drew it, nats; None in files from before it was kept."""
    distinct: tuple[int, ...] | None = None
    """(X,) different samples of each prompt."""
    texts: tuple[str, ...]
    """The first sample of each of the first prompts."""

    def by_prompt(self, name: str) -> NDArray[np.float64]:
        """(X, num_samples) of one of the columns."""
        return np.asarray(getattr(self, name), dtype=np.float64).reshape(self.num_prompts, -1)

    @property
    def owners(self) -> list[int]:
        """The prompt of each sample."""
        return np.repeat(np.arange(self.num_prompts), len(self.kl) // self.num_prompts).tolist()


class ReferenceSamples(FileRecord):
    """reference.json: M samples of the reference for each of X prompts."""

    measured_with: str | None = None
    """Digest of everything the numbers depend on."""
    rewards: tuple[tuple[float, ...], ...]
    """(X, M)."""
    log_probs: tuple[tuple[float, ...], ...]
    """(X, M) log pi_ref(y|x), nats."""
    prompts: tuple[str, ...]
    """(X,) as text."""
    texts: tuple[str, ...]
    """The first sample of each of the first prompts."""
    identity: str
    """Fingerprint of the reference's weights."""
    ids: tuple[tuple[int, ...], ...]
    """(X M,) the samples as tokens, prompt by prompt."""


class StudyFacts(FileRecord):
    """bench.json: numbers about what a study stands on."""

    facts: dict[str, Any] = Field(default_factory=dict)
