"""Who draws the completions of a rollout: this process, or a server that is given the policy's weights again and again."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from exptilt.data.groups import TokenIds
from exptilt.sampling.generate import Sample, sample
from exptilt.sampling.sampling_law import HasEos, SamplingLaw


class Sampler(Protocol):
    """Draws completions of the policy of a run.

    One seed gives one set of completions, whoever draws: `LocalSampler` and a `ServerSampler` that asks exptilt's own server
    agree but for the rounding of a forward pass, which depends on what is drawn together. A foreign server has streams of
    its own.
    """

    def take_weights(self, version: int) -> None:
        """Draw from the weights that the policy has now; all processes of a run call it before the draws of a rollout.

        Args:
            version: of the weights; another one after every update.

        Raises:
            ServerError: a server is gone, or did not take them.
        """
        ...

    def draw(
        self, prompts: Sequence[TokenIds], *, num_samples: int, law: SamplingLaw, seeds: Sequence[int]
    ) -> list[Sample]:
        """Draw completions with their log-probabilities, in the order of the prompts.

        Args:
            prompts: token ids of each.
            num_samples: completions of each prompt.
            law: to draw by; it says what ends a completion.
            seeds: of each prompt, see `prompt_seeds`.

        Raises:
            ServerError: a server is gone, or what it gave is not what was asked.
        """
        ...

    def close(self) -> None:
        """Leave nothing behind."""
        ...


class LocalSampler:
    """The policy draws in this process.

    Args:
        model: the policy.
        end: its tokenizer, or the ids that end a completion, where the law does not say.
        batch_size: completions drawn at a time.
    """

    def __init__(self, model: Any, end: HasEos | Sequence[int], *, batch_size: int = 256) -> None:
        self._model, self._end, self._batch_size = model, end, batch_size

    def take_weights(self, version: int) -> None:
        """Do nothing: the policy itself draws."""

    def draw(
        self, prompts: Sequence[TokenIds], *, num_samples: int, law: SamplingLaw, seeds: Sequence[int]
    ) -> list[Sample]:
        """Draw completions; see `Sampler` and `sample`."""
        return sample(
            self._model,
            self._end,
            prompts,
            num_samples=num_samples,
            law=law,
            seed=seeds,
            keys=[ids_key(prompt) for prompt in prompts],
            batch_size=self._batch_size,
            with_logps=True,
        )

    def close(self) -> None:
        """Nothing to close."""


def ids_key(prompt: TokenIds) -> bytes:
    """What names the random streams of a prompt that is given as token ids."""
    return np.asarray(prompt, dtype=np.int32).tobytes()


def prompt_seeds(seed: int, rollout: int, positions: Sequence[int]) -> list[int]:
    """One seed for each prompt of a rollout, in 31 bits, as a server takes it.

    Args:
        seed: of the run.
        rollout: number of the rollout.
        positions: of the prompts among those of all processes, so that the number of processes changes nothing.

    Example:
        >>> prompt_seeds(0, 7, [0, 1])[1:] == prompt_seeds(0, 7, [1]), len(set(prompt_seeds(0, 7, range(100))))
        (True, 100)
    """
    digests = (hashlib.blake2b(struct.pack("<QQQ", seed, rollout, position), digest_size=4) for position in positions)
    return [int.from_bytes(digest.digest(), "little") >> 1 for digest in digests]
