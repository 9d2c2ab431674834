"""The unit of work: one prompt, K completions and one label, as token ids. Never imports torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypeVar

from exptilt.labels import Label, Preferred

TokenIds = NDArray[np.int32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Credit:
    """By how much each token of a sample was better than expected, in the words of actor-critic methods."""

    advantages: NDArray[np.float32]
    """(n,) what the policy is moved by."""
    returns: NDArray[np.float32]
    """(n,) what the critic is to predict."""
    values: NDArray[np.float32]
    """(n,) what the critic predicted when the sample was drawn."""

    def cut(self, length: int) -> Credit:
        """That of the first `length` ids."""
        return Credit(self.advantages[:length], self.returns[:length], self.values[:length])


@dataclass(frozen=True, slots=True, eq=False)
class Completion:
    """Token ids of one completion, the mask of those that count (are in the loss), and values known of this completion."""

    ids: TokenIds
    """(n,) ids after the prompt's, the end token included."""
    counted: Mask
    """(n,) False on user and tool turns inside a multi-turn completion."""
    score: float | None = None
    """Quality on the source's own scale, or the reward; larger is better. None if nobody scored it."""
    behaviour: NDArray[np.float32] | None = None
    """(n,) nats, log-probability of each id under the policy it was sampled from; None where that is not known."""
    version: int | None = None
    """Version of the trained policy that it was sampled from; None if it comes from elsewhere."""
    credit: Credit | None = None
    """Advantages, returns and values of each id; only samples of a method with a critic have them."""
    repeats_prompt: bool = False
    """True for the prompt's own ids after its first, which are scored where they stand in the prompt; see `prompt_of`."""

    @property
    def length(self) -> int:
        """Number of tokens that count."""
        return int(np.count_nonzero(self.counted))

    def cut(self, length: int) -> Completion:
        """Cut to the first `length` ids at most; everything else known of them stays.

        Example:
            >>> whole = Completion(np.array([5, 6, 7], np.int32), np.array([True, False, True]), score=0.5)
            >>> part = whole.cut(2)
            >>> part.ids.tolist(), part.counted.tolist(), part.score, whole.cut(9) is whole
            ([5, 6], [True, False], 0.5, True)
        """
        if length >= len(self.ids):
            return self
        behaviour = None if self.behaviour is None else self.behaviour[:length]
        credit = None if self.credit is None else self.credit.cut(length)
        return Completion(self.ids[:length], self.counted[:length], self.score, behaviour, self.version, credit)


PromptT = TypeVar("PromptT", default=TokenIds)
CompletionT = TypeVar("CompletionT", default=Completion)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Group(Generic[PromptT, CompletionT]):
    """One prompt, K >= 1 completions and their label.

    Prompt and completions are token ids unless the type says otherwise (`Group[Image, Masks]`).
    """

    id: str
    """Origin of the row, for messages to people."""
    prompt: PromptT
    """The prompt; for text, (p,) ids with BOS if the tokenizer sets one; empty only where the completion's first token does not count."""
    completions: tuple[CompletionT, ...]
    """The completions; a preference has the order chosen, rejected."""
    label: Label | None = None
    """The label of the completions; None if they are to be imitated, or are samples."""
    weight: float = 1.0
    """Weight of the row in a mean, >= 0."""
    section: str | None = None
    """Part of a benchmark that it belongs to, for accuracy by section."""

    @property
    def num_tokens(self: Group) -> int:
        """Unique tokens: the prompt once, every completion once."""
        return len(self.prompt) + sum([len(completion.ids) for completion in self.following])

    @property
    def num_fed(self: Group) -> int:
        """Tokens that a model is fed: the prompt, and every completion without its last token, which predicts nothing."""
        return self.num_tokens - len(self.following)

    @property
    def following(self: Group) -> tuple[Completion, ...]:
        """The completions that follow the prompt: all but one that repeats it."""
        return tuple([completion for completion in self.completions if not completion.repeats_prompt])

    def before(self: Group, completion: Completion) -> TokenIds:
        """The ids that a completion comes after: the prompt, or only its first where the completion repeats the rest."""
        return self.prompt[:1] if completion.repeats_prompt else self.prompt


def prompt_of(group: Group) -> Completion:
    """The prompt itself as a completion, for losses that count its tokens; the first has nothing before it and is not one.

    Example:
        >>> row = Group(id="a", prompt=np.array([5, 6, 7], np.int32), completions=())
        >>> prompt = prompt_of(row)
        >>> prompt.ids.tolist(), row.before(prompt).tolist()
        ([6, 7], [5])
    """
    ids = group.prompt[1:]
    return Completion(ids, np.ones(len(ids), np.bool_), repeats_prompt=True)


def scores_of(group: Group[Any, Any]) -> tuple[float, ...] | None:
    """The score of every completion; None unless each has one."""
    scores = tuple(completion.score for completion in group.completions)
    return None if None in scores else scores


def key_of(group: Group) -> int:
    """A number of 64 bits that belongs to what a row holds, whatever its name, label and order of completions.

    Example:
        >>> one, other = (Completion(np.array([n], np.int32), np.ones(1, bool)) for n in (5, 6))
        >>> row = Group(id="a", prompt=np.array([1], np.int32), completions=(one, other))
        >>> key_of(row) == key_of(Group(id="b", prompt=row.prompt, completions=(other, one))), key_of(row) < 2**63
        (True, True)
    """
    digest = hashlib.blake2b(group.prompt.tobytes(), digest_size=8)
    for ids in sorted(completion.ids.tobytes() for completion in group.completions):
        digest.update(len(ids).to_bytes(8, "little") + ids)
    return int.from_bytes(digest.digest(), "little", signed=True)


def digest_of(groups: Iterable[Group]) -> str:
    """Fingerprint of tokenised rows with all their values except ids and sections, in order."""
    digest = hashlib.blake2b(digest_size=16)
    for group in groups:
        digest.update(group.prompt.tobytes() + repr(_known_of(group)).encode())
        for completion in group.completions:
            digest.update(b"|" + completion.ids.tobytes() + completion.counted.tobytes())
            if completion.behaviour is not None:
                digest.update(b"behaviour" + completion.behaviour.tobytes())
    return digest.hexdigest()


def _known_of(group: Group) -> tuple[Any, ...]:
    scores = tuple(completion.score for completion in group.completions)
    versions = tuple(completion.version for completion in group.completions)
    sampled = () if set(versions) == {None} else (versions,)
    if isinstance(group.label, Preferred):
        # This form comes from earlier versions: with it, pairs are found again across the folders of their runs.
        known_scores = None if set(scores) == {None} else scores
        return (group.weight, group.label.p_chosen, True, group.label.margin, known_scores, (), *sampled)
    return (group.weight, group.label, scores, *sampled)
