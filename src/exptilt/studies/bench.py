"""The yardstick of a study: one reference, one set of prompts, one reward and one sampling law for every policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from exptilt.data.groups import TokenIds
from exptilt.errors import DataError
from exptilt.evaluation.diversity import distinct_counts
from exptilt.evaluation.frontier.comparable import Provenance
from exptilt.policies.fingerprint import fingerprint
from exptilt.run_folder.study_record import MeasuredSamples
from exptilt.sampling.draws import Draws, draw, prompt_text
from exptilt.sampling.sampling_law import SamplingLaw
from exptilt.wording import counted

Reward = Callable[[Sequence[str], Sequence[str]], ArrayLike]
"""N prompts and N completions, as text, to N rewards."""

SHOWN = 8
"""Prompts whose first sample is kept as text."""


@dataclass(frozen=True)
class Yardstick:
    """The reference, prompts, reward and sampling law that every policy is measured with."""

    reference: Any
    tokenizer: Any
    prompts: Sequence[TokenIds]
    reward: Reward
    law: SamplingLaw
    seed: int

    @property
    def openings(self) -> list[str]:
        """The text of the prompts."""
        return [prompt_text(self.tokenizer, prompt) for prompt in self.prompts]

    @cached_property
    def provenance(self) -> Provenance:
        """The sampling law, reference and prompts that numbers must share to be compared."""
        names = [f"{index}: {text}" for index, text in enumerate(self.openings)]
        return Provenance(law=self.law, reference=fingerprint(self.reference), prompts=names)

    def draw(self, model: Any, num_samples: int, stream: int) -> Draws:
        """Draw samples of a model on every prompt; streams are independent of each other."""
        seed = self.seed + 1000 * stream
        return draw(model, self.tokenizer, self.prompts, num_samples=num_samples, law=self.law, seed=seed)

    def read(self, ids: Sequence[TokenIds]) -> list[str]:
        """Decode completions to text, without special tokens."""
        return [prompt_text(self.tokenizer, completion) for completion in ids]

    def rewards(self, draws: Draws, reward: Reward | None = None) -> NDArray[np.float64]:
        """(N,) rewards of samples, by the study's reward or by another one.

        Raises:
            DataError: the reward is not one finite number for each sample.
        """
        openings = self.openings
        prompts, completions = [openings[at] for at in draws.prompt_index], list(draws.texts)
        values = np.asarray((reward or self.reward)(prompts, completions), dtype=np.float64)
        if values.shape != (len(draws),):
            raise DataError(f"the reward gave an array of shape {values.shape} for {len(draws)} samples")
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise DataError(
                f"the reward of {counted(len(bad), 'sample')} is not finite; the first is {values[bad[0]]} for "
                f"{prompts[bad[0]]!r} + {completions[bad[0]]!r}"
            )
        return values

    def measure(self, model: Any, num_samples: int, stream: int) -> MeasuredSamples:
        """Sample a policy and take its reward and its KL from the reference."""
        draws = self.draw(model, num_samples, stream).compared(model, self.reference)
        return MeasuredSamples(
            num_prompts=len(self.prompts),
            kl=tuple(draws.column("kl").tolist()),
            k1=tuple(draws.column("log_ratio").tolist()),
            reward=tuple(self.rewards(draws).tolist()),
            length=tuple(draws.length.tolist()),
            ended=tuple(draws.ended.astype(float).tolist()),
            logps=tuple(draws.column("policy_logps").tolist()),
            distinct=tuple(distinct_counts(draws.ids, draws.prompt_index).astype(int).tolist()),
            texts=tuple(draws.texts[at] for at in draws.first[:SHOWN]),
        )
