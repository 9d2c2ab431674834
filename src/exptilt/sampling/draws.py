"""Completions of a policy beside its reference, as columns: drawn, decoded to text, scored and compared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from exptilt.data.groups import Group, TokenIds
from exptilt.policies.divergence import sequence_kl
from exptilt.policies.engine.forward import context_length
from exptilt.policies.engine.inside import beside
from exptilt.sampling.generate import Sample, sample, samples_as_groups
from exptilt.sampling.sampling_law import SamplingLaw, require_plain

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Draws:
    """N completions of X prompts, prompt by prompt; every column has one entry per completion.

    A column is None until it is measured: `compared` fills the log-probabilities and the KL, `rewarded` fills the
    reward.

    Example:
        >>> law = SamplingLaw(max_new_tokens=4, eos_ids=(2,))
        >>> one = Sample(prompt_index=0, sample_index=0, prompt=np.array([5]), ids=np.array([7, 2]), ended=True, law=law)
        >>> draws = Draws.of([one], prompts=[one.prompt], texts=["yes"], law=law)
        >>> draws.length.tolist(), draws.ended.tolist(), draws.by_prompt(draws.length).shape
        ([2], [True], (1, 1))
    """

    prompts: Sequence[TokenIds]
    """(X,) the prompts."""
    prompt_index: NDArray[np.int64]
    """(N,) the prompt of each completion, in [0, X); rises."""
    sample_index: NDArray[np.int64]
    """(N,) 0, 1, ... among the completions of one prompt."""
    ids: Sequence[TokenIds]
    """(N,) tokens, the end token included."""
    texts: Sequence[str]
    """(N,) without special tokens."""
    length: NDArray[np.int64]
    """(N,) tokens, the end token included."""
    ended: NDArray[np.bool_]
    """(N,) True where the last token is an end token, False where the law's `max_new_tokens` cut."""
    law: SamplingLaw
    """The law of all draws."""
    policy_logps: Floats | None = None
    """(N,) log pi(y|x) of whole completions, nats."""
    log_ratio: Floats | None = None
    """(N,) log pi(y|x) - log pi_ref(y|x), nats."""
    kl: Floats | None = None
    """(N,) sum over steps of KL(policy || reference), nats: the same mean as `log_ratio`, with less noise."""
    reward: Floats | None = None
    """(N,)."""

    @classmethod
    def of(
        cls, samples: Sequence[Sample], *, prompts: Sequence[TokenIds], texts: Sequence[str], law: SamplingLaw
    ) -> Draws:
        """Make columns of samples, in the order of their prompts."""
        return cls(
            prompts=prompts,
            prompt_index=np.array([drawn.prompt_index for drawn in samples], dtype=np.int64),
            sample_index=np.array([drawn.sample_index for drawn in samples], dtype=np.int64),
            ids=[drawn.ids for drawn in samples],
            texts=texts,
            length=np.array([len(drawn.ids) for drawn in samples], dtype=np.int64),
            ended=np.array([drawn.ended for drawn in samples], dtype=np.bool_),
            law=law,
        )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def reference_logps(self) -> Floats | None:
        """(N,) log pi_ref(y|x) of whole completions, nats."""
        return None if self.policy_logps is None or self.log_ratio is None else self.policy_logps - self.log_ratio

    @property
    def groups(self) -> list[Group]:
        """The completions as groups for scoring, in order; see `samples_as_groups`."""
        columns = zip(
            self.prompt_index.tolist(), self.sample_index.tolist(), self.ids, self.ended.tolist(), strict=True
        )
        return samples_as_groups(
            [
                Sample(
                    prompt_index=prompt,
                    sample_index=index,
                    prompt=self.prompts[prompt],
                    ids=ids,
                    ended=ended,
                    law=self.law,
                )
                for prompt, index, ids, ended in columns
            ]
        )

    @property
    def first(self) -> list[int]:
        """Positions of the first completion of each prompt."""
        return np.flatnonzero(self.sample_index == 0).tolist()

    def column(self, name: str) -> Floats:
        """(N,) values of a measured column; a column that is None is an error.

        Raises:
            ValueError: the column is not measured.
        """
        values: Floats | None = getattr(self, name)
        if values is None:
            raise ValueError(f"{name} of these completions is not measured")
        return values

    def by_prompt(self, column: ArrayLike) -> Floats:
        """(X, N / X) values of a column, if every prompt has equally many completions."""
        return np.asarray(column, dtype=np.float64).reshape(len(self.prompts), -1)

    def compared(self, policy: Any, reference: Any, progress: str = "") -> Draws:
        """Add log-probabilities under both models, and the KL between them.

        Args:
            policy: the model that drew them.
            reference: the model to compare with; a sharded one is gathered meanwhile.
            progress: name of the progress bar; empty for none.

        Raises:
            ValueError: the law is not the policy's own distribution, so that the result would be no KL.
        """
        require_plain(self.law, "the KL of samples")
        sums = beside(reference, lambda: sequence_kl(policy, reference, self.groups, progress=progress))
        return replace(self, policy_logps=sums.policy.numpy(), log_ratio=sums.k1.numpy(), kl=sums.kl.numpy())

    def rewarded(self, reward: Floats) -> Draws:
        """Add rewards (N,)."""
        if reward.shape != (len(self),):
            raise ValueError(f"{len(self)} completions need as many rewards, got an array of shape {reward.shape}")
        return replace(self, reward=reward)


def draw(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[TokenIds],
    *,
    law: SamplingLaw,
    num_samples: int = 1,
    seed: int = 0,
) -> Draws:
    """Draw completions of every prompt, and decode them to text.

    Args:
        model: the policy, or a reference; put into evaluation mode while it is sampled.
        tokenizer: tokenizer of the model.
        prompts: (X,) token ids of each.
        law: law to draw by.
        num_samples: completions of each prompt, >= 1.
        seed: >= 0; one seed draws the same random numbers whatever the model, so what differs is the model's doing.

    Raises:
        ValueError: see `sample`.
    """
    law = law.ending_at(tokenizer)
    samples = sample(model, tokenizer, prompts, num_samples=num_samples, law=law, seed=seed)
    return Draws.of(samples, prompts=prompts, texts=[drawn.text(tokenizer) for drawn in samples], law=law)


def prompt_text(tokenizer: Any, prompt: TokenIds) -> str:
    """The text of a prompt, without special tokens."""
    return str(tokenizer.decode(prompt.tolist(), skip_special_tokens=True))


def distinct_prompts(groups: Iterable[Group]) -> list[TokenIds]:
    """Each prompt once, in order, without empty prompts, which cannot be sampled from.

    Example:
        >>> rows = [Group(id=str(n), prompt=np.array(ids), completions=()) for n, ids in enumerate([[5], [], [6], [5]])]
        >>> [prompt.tolist() for prompt in distinct_prompts(rows)]
        [[5], [6]]
    """
    return list({group.prompt.tobytes(): group.prompt for group in groups if len(group.prompt)}.values())


def room_for(model: Any, prompts: Sequence[TokenIds], num_tokens: int) -> int:
    """Number of new tokens, `num_tokens` at most, so that no sample runs past the model's context."""
    context = context_length(model)
    if context is None or not prompts:
        return num_tokens
    return max(1, min(num_tokens, context - max(len(prompt) for prompt in prompts)))
