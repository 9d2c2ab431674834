"""One reference, one set of prompts, one reward, one sampling law: what every policy of a study is measured with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from exptilt.data.groups import TokenIds
from exptilt.errors import DataError
from exptilt.evaluation.frontier.comparable import Provenance
from exptilt.policies.divergence import sequence_kl
from exptilt.policies.fingerprint import fingerprint
from exptilt.sampling.generate import Sample, sample, samples_as_groups
from exptilt.sampling.sampling_law import SamplingLaw
from exptilt.wording import counted

Reward = Callable[[Sequence[str], Sequence[str]], ArrayLike]
"""N prompts and N completions, as text, to N rewards."""

SHOWN = 8
"""Prompts whose first sample is kept as text."""


@dataclass(frozen=True)
class Measurement:
    """Samples of a policy as numbers, prompt by prompt; all (X * num_samples,)."""

    num_prompts: int
    kl: list[float]
    """Rao-Blackwellised KL(policy || reference) of each sample, nats."""
    k1: list[float]
    """Log-ratio of each sample, nats."""
    reward: list[float]
    length: list[int]
    """Tokens, the end token included."""
    ended: list[float]
    """1 where the sample ended by itself."""
    texts: list[str]
    """The first sample of each of the first prompts."""

    def by_prompt(self, name: str) -> NDArray[np.float64]:
        """(X, num_samples) of one of the columns."""
        return np.asarray(getattr(self, name), dtype=np.float64).reshape(self.num_prompts, -1)

    @property
    def owners(self) -> list[int]:
        """The prompt of each sample."""
        return np.repeat(np.arange(self.num_prompts), len(self.kl) // self.num_prompts).tolist()


@dataclass(frozen=True)
class Yardstick:
    """What every policy is measured with."""

    reference: Any
    tokenizer: Any
    prompts: Sequence[TokenIds]
    reward: Reward
    law: SamplingLaw
    seed: int

    @property
    def openings(self) -> list[str]:
        """The prompts as text."""
        return [self.tokenizer.decode(prompt.tolist(), skip_special_tokens=True) for prompt in self.prompts]

    @cached_property
    def provenance(self) -> Provenance:
        """What numbers must share to be compared: sampling law, reference and prompts."""
        names = [f"{index}: {text}" for index, text in enumerate(self.openings)]
        return Provenance(law=self.law, reference=fingerprint(self.reference), prompts=names)

    def sample(self, model: Any, num_samples: int, stream: int) -> list[Sample]:
        """Samples of a model on every prompt; streams are independent of each other."""
        seed = self.seed + 1000 * stream
        return sample(model, self.tokenizer, self.prompts, num_samples=num_samples, law=self.law, seed=seed)

    def rewards(self, samples: Sequence[Sample], reward: Reward | None = None) -> NDArray[np.float64]:
        """(N,) rewards of samples, or what another reward says of them.

        Raises:
            DataError: the reward is not one finite number for each sample.
        """
        openings = self.openings
        prompts = [openings[one.prompt_index] for one in samples]
        completions = [one.text(self.tokenizer) for one in samples]
        found = np.asarray((reward or self.reward)(prompts, completions), dtype=np.float64)
        if found.shape != (len(samples),):
            raise DataError(f"the reward gave an array of shape {found.shape} for {len(samples)} samples")
        bad = np.flatnonzero(~np.isfinite(found))
        if len(bad):
            raise DataError(
                f"the reward of {counted(len(bad), 'sample')} is not finite; the first is {found[bad[0]]} for "
                f"{prompts[bad[0]]!r} + {completions[bad[0]]!r}"
            )
        return found

    def measure(self, model: Any, num_samples: int, stream: int) -> Measurement:
        """Sample a policy and take its reward and its KL from the reference."""
        samples = self.sample(model, num_samples, stream)
        sums = sequence_kl(model, self.reference, samples_as_groups(samples))
        first = [one for one in samples if one.sample_index == 0][:SHOWN]
        return Measurement(
            num_prompts=len(self.prompts),
            kl=sums.kl.tolist(),
            k1=sums.k1.tolist(),
            reward=self.rewards(samples).tolist(),
            length=[len(one.ids) for one in samples],
            ended=[float(one.ended) for one in samples],
            texts=[one.text(self.tokenizer) for one in first],
        )
