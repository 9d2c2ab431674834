"""Rows of the store: raters, votes and calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from exptilt.preferences import Comparison, Outcome, Verdict

ADJUDICATOR = "adjudicator"
"""Identity of the person who settles disputes: such a vote is none of the votes that disagree, and counts before them."""


@dataclass(frozen=True, slots=True)
class Rater:
    """Who votes: a person, or a judge by its identity.

    Example:
        >>> Rater("judge", "gpt", "server http://localhost/v1 gpt template 12ab").kind
        'judge'
    """

    kind: Literal["person", "judge"]
    name: str
    """What tables call the rater."""
    identity: str = ""
    """Of a judge: model, template and parameters. Two judges of one name and two identities are two raters."""

    def __post_init__(self) -> None:
        if self.kind not in ("person", "judge"):
            raise ValueError(f"a rater is a person or a judge, got {self.kind!r}")
        if not self.name.strip():
            raise ValueError("a rater needs a name")


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """What one rater said of one comparison, as it was shown.

    `order` counts in the comparison's *sorted* answers, since the store knows a comparison by its unordered answers.
    """

    comparison: str
    """The comparison's id."""
    rater: Rater
    order: tuple[int, ...]
    """Positions in the sorted answers, in the order shown."""
    outcome: Outcome | None = None
    """None where the answers were ranked."""
    ranking: tuple[int, ...] | None = None
    """Ranks in the order shown, 1 is best; equal ranks are ties."""
    question: str = "better"
    replicate: int = 0
    probability: float | None = None
    """That the answer shown first is better, where the rater gives one."""
    strength: str = ""
    """How clear the choice was, in the rater's words ("slightly", "clearly")."""
    note: str = ""
    supersedes: str | None = None
    """The nonce of an earlier vote that this one takes back or replaces."""
    nonce: str
    """Known before the vote is sent, so that one sent twice is stored once."""

    def __post_init__(self) -> None:
        if sorted(self.order) != list(range(len(self.order))):
            raise ValueError(f"order must name each answer once, got {self.order}")
        if (self.outcome is None) == (self.ranking is None):
            raise ValueError("a vote has an outcome or a ranking, and not both")
        if self.ranking is not None and len(self.ranking) != len(self.order):
            raise ValueError(f"a ranking of {len(self.order)} answers needs as many ranks, got {self.ranking}")
        if self.probability is not None and not 0 <= self.probability <= 1:
            raise ValueError(f"probability must be in [0, 1], got {self.probability}")

    @property
    def first_share(self) -> float | None:
        """How far the vote is for the first of two sorted answers, in [0, 1]: a probability where one was given, 1/2 for
        a tie and for "both bad"; None where the vote says nothing.

        Example:
            >>> anna = Rater("person", "anna")
            >>> Vote(comparison="c", rater=anna, order=(1, 0), outcome="first", nonce="n").first_share
            0.0
        """  # noqa: D205
        if len(self.order) != 2 or self.outcome in ("skip", "unscored"):
            return None
        shown_first = self._shown_first_share()
        return shown_first if self.order[0] == 0 else 1.0 - shown_first

    def _shown_first_share(self) -> float:
        if self.ranking is not None:
            first, second = self.ranking
            return 0.5 if first == second else float(first < second)
        if self.probability is not None:
            return self.probability
        return {"first": 1.0, "second": 0.0}.get(str(self.outcome), 0.5)


@dataclass(frozen=True, slots=True)
class VoteRow:
    """A vote as a row of the store."""

    number: int
    """Rows count up in the order in which they came."""
    created: str
    """ISO 8601, UTC."""
    vote: Vote


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One paid request, and what came back: nothing that was paid for is asked again or lost."""

    key: str
    """SHA-256 of the whole canonical request with template, parameters, order and replicate."""
    request: str
    """The canonical request, JSON; never with a key of the service."""
    reply: str = ""
    """The raw reply, JSON; empty where none came."""
    model: str = ""
    """The model that the service says it used."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost: float | None = None
    """At the prices given by the user, in their currency."""
    seconds: float | None = None
    finish_reason: str = ""
    usable: bool = True
    """Whether it may be served again. A reply cut by length, a refusal of the service or a fault is not."""


def canonical_order(comparison: Comparison) -> tuple[int, ...]:
    """Where each of a comparison's answers stands among its sorted answers.

    Example:
        >>> canonical_order(Comparison("2 + 2?", ("b", "a")))
        (1, 0)
    """
    ordered = sorted(range(len(comparison.answers)), key=lambda position: comparison.answers[position])
    place = {position: rank for rank, position in enumerate(ordered)}
    return tuple(place[position] for position in range(len(comparison.answers)))


def vote_of(comparison: Comparison, verdict: Verdict, rater: Rater, nonce: str, **more: Any) -> Vote:
    """A judge's verdict as a row of the store."""
    place = canonical_order(comparison)
    return Vote(
        comparison=comparison.id,
        rater=rater,
        order=tuple(place[position] for position in verdict.order),
        outcome=verdict.outcome,
        probability=verdict.probability,
        nonce=nonce,
        **{"note": verdict.reason} | more,
    )


def verdict_of(comparison: Comparison, vote: Vote) -> Verdict:
    """A vote on two answers, as a verdict about the comparison in the order the caller has its answers in.

    Example:
        >>> one = Comparison("2 + 2?", ("b", "a"))
        >>> given = Verdict(comparison=one.id, order=(1, 0), outcome="first")
        >>> verdict_of(one, vote_of(one, given, Rater("person", "anna"), "n")).winner
        1
    """
    place = canonical_order(comparison)
    position = {rank: index for index, rank in enumerate(place)}
    outcome = vote.outcome
    if outcome is None:
        outcome = {1.0: "first", 0.0: "second"}.get(vote._shown_first_share(), "tie")  # type: ignore[assignment]
    return Verdict(
        comparison=comparison.id,
        order=tuple(position[rank] for rank in vote.order),
        outcome=outcome,  # type: ignore[arg-type]
        probability=vote.probability,
        reason=vote.note,
    )
