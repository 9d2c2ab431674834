"""Votes to one opinion on each comparison: who counts, and what is done where raters disagree.

Every rater has one voice on a comparison, however often it was asked. The orders in which it saw the answers count alike, so a rater that
leans toward a slot leans toward neither answer. A vote on two answers and a ranking of K become the same thing: shares (K, K), where
[i, j] says how far the rater is for answer i over answer j, in [0, 1].
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from exptilt.errors import DataError
from exptilt.preferences import Comparison
from exptilt.votes.vote_records import ADJUDICATOR, Rater, Vote
from exptilt.wording import did_you_mean

Floats = NDArray[np.float64]
OnDispute = Literal["soft", "majority", "drop"]


@dataclass(frozen=True, eq=False, kw_only=True)
class SettledComparison:
    """What all raters together say of one comparison."""

    comparison: Comparison
    """With sorted answers, as votes count them."""
    wins: Floats
    """(K, K) how far answer i is better than answer j, in [0, 1]; NaN where raters disagree and such pairs are left out."""
    approval: Floats
    """(K,) the share of raters that find an answer good, among those that find it good or bad; NaN where there are none."""
    both_bad: bool
    """Whether raters find both answers bad, in the majority."""
    num_raters: int
    num_orders: int
    """In how many orders the answers were shown."""


@dataclass(frozen=True, kw_only=True)
class VoteRule:
    """Which votes count, and how those of several raters become one opinion."""

    on_dispute: OnDispute = "soft"
    """Where raters disagree. soft: the mean of their shares; majority: what more of them say, ties of a rater aside; drop: nothing."""
    raters: tuple[str, ...] = ()
    """`people`, `judges` or names; empty for all."""
    question: str | None = None
    """What was asked; None where the votes are on one question."""
    wanted: int = 1
    """Raters that a comparison needs."""

    def settle(
        self, votes: Sequence[Vote], comparisons: Mapping[str, Comparison], left_out: Counter[str]
    ) -> list[SettledComparison]:
        """Settle each comparison that enough raters voted on.

        Args:
            votes: with those that a later vote replaced.
            comparisons: by id, with sorted answers.
            left_out: counts votes and comparisons that are not used, by reason.

        Raises:
            DataError: no such rater or question, or votes on several questions.

        Example:
            >>> asked = Comparison("2 + 2?", ("4", "5"))
            >>> votes = [
            ...     Vote(comparison=asked.id, rater=Rater("person", name), order=order, outcome="first", nonce=name)
            ...     for name, order in (("anna", (0, 1)), ("ben", (0, 1)), ("cleo", (1, 0)))
            ... ]
            >>> (settled,) = VoteRule().settle(votes, {asked.id: asked}, Counter())
            >>> settled.wins[0, 1].round(4), settled.num_raters, settled.num_orders
            (np.float64(0.6667), 3, 2)
        """
        current = _current(votes, left_out)
        current = self._of_question(self._of_raters(current, left_out), left_out)
        by_comparison: dict[str, dict[Rater, list[Vote]]] = defaultdict(lambda: defaultdict(list))
        for vote in current:
            if vote.outcome in ("skip", "unscored"):
                left_out[f"{vote.outcome} (votes)"] += 1
            elif len(vote.order) > 2 and vote.outcome in ("first", "second"):
                left_out["a choice of two among more than two answers (votes)"] += 1
            else:
                by_comparison[vote.comparison][vote.rater].append(vote)
        settled = []
        for name, by_rater in by_comparison.items():
            owners = {rater: own for rater, own in by_rater.items() if rater.identity == ADJUDICATOR}
            if len(by_rater) < self.wanted:
                left_out[f"fewer than {self.wanted} raters (comparisons)"] += 1
            else:
                settled.append(self._settled(comparisons[name], owners or by_rater))  # a settled dispute stays settled
        return settled

    def _of_raters(self, votes: Sequence[Vote], left_out: Counter[str]) -> list[Vote]:
        if not self.raters:
            return list(votes)
        names = {vote.rater.name for vote in votes}
        for name in self.raters:
            if name not in ("people", "judges", *names):
                raise DataError(f"votes.raters: {name!r} has no votes{did_you_mean(name, sorted(names))}")
        chosen = [vote for vote in votes if {_group_of(vote.rater), vote.rater.name} & set(self.raters)]
        if len(chosen) < len(votes):
            left_out["other raters (votes)"] += len(votes) - len(chosen)
        return chosen

    def _of_question(self, votes: Sequence[Vote], left_out: Counter[str]) -> list[Vote]:
        questions = Counter(vote.question for vote in votes)
        if self.question is None:
            if len(questions) > 1:
                said = "; ".join(f"{_short(question)!r} ({count:,})" for question, count in questions.most_common(4))
                raise DataError(f"votes.question: the votes are on {len(questions)} questions, name one: {said}")
            return list(votes)
        if votes and self.question not in questions:
            raise DataError(
                f"votes.question: nobody was asked {self.question!r}{did_you_mean(self.question, questions)}"
            )
        chosen = [vote for vote in votes if vote.question == self.question]
        if len(chosen) < len(votes):
            left_out["another question (votes)"] += len(votes) - len(chosen)
        return chosen

    def _settled(self, comparison: Comparison, by_rater: Mapping[Rater, Sequence[Vote]]) -> SettledComparison:
        shares = np.stack([_shares_of(votes) for votes in by_rater.values()])
        bad = np.array([np.mean([vote.outcome == "both_bad" for vote in votes]) > 0.5 for votes in by_rater.values()])
        return SettledComparison(
            comparison=comparison,
            wins=self._wins(shares),
            approval=self._approval(shares, bad),
            both_bad=bool(bad.mean() > 0.5),
            num_raters=len(by_rater),
            num_orders=len({vote.order for votes in by_rater.values() for vote in votes}),
        )

    def _wins(self, shares: Floats) -> Floats:
        """(K, K) of (R, K, K) shares of raters."""
        if self.on_dispute == "soft":
            return _unrounded(shares.mean(axis=0))
        sides = np.sign(_unrounded(shares) - 0.5)
        if self.on_dispute == "majority":
            return np.asarray((np.sign(sides.sum(axis=0)) + 1) / 2)
        agreed = (sides == sides[0]).all(axis=0)
        return np.where(agreed, (sides[0] + 1) / 2, np.nan)

    def _approval(self, shares: Floats, bad: NDArray[np.bool_]) -> Floats:
        """(K,) of (R, K, K) shares: a rater finds good what wins against more than half of the others."""
        count = shares.shape[1]
        mean_win = _unrounded((shares.sum(axis=2) - 0.5) / (count - 1))
        good = np.where(bad[:, None], -1.0, np.sign(mean_win - 0.5))
        opinions = np.abs(good).sum(axis=0)
        approval = np.full(count, np.nan)
        np.divide((good > 0).sum(axis=0), opinions, out=approval, where=opinions > 0)
        if self.on_dispute == "drop":
            approval[(approval > 0) & (approval < 1)] = 0.5
        return approval


def rater_names(votes: Iterable[Vote]) -> list[str]:
    """Names of those that voted, people first."""
    raters = {vote.rater for vote in votes}
    return list(dict.fromkeys(rater.name for rater in sorted(raters, key=lambda r: (r.kind != "person", r.name))))


def _current(votes: Sequence[Vote], left_out: Counter[str]) -> list[Vote]:
    """Votes that no later vote replaced."""
    replaced = {vote.supersedes for vote in votes if vote.supersedes is not None}
    current = [vote for vote in votes if vote.nonce not in replaced]
    if len(current) < len(votes):
        left_out["replaced by a later vote (votes)"] += len(votes) - len(current)
    # A row that only takes another one back says nothing itself.
    return [vote for vote in current if vote.outcome != "unscored" or vote.supersedes is None]


def _group_of(rater: Rater) -> str:
    return "people" if rater.kind == "person" else "judges"


def _shares_of(votes: Sequence[Vote]) -> Floats:
    """(K, K) one rater's shares: the mean over the orders in which it saw the answers, of the mean over votes in that order."""
    by_order: dict[tuple[int, ...], list[Floats]] = defaultdict(list)
    for vote in votes:
        by_order[vote.order].append(_shares_of_vote(vote))
    return np.asarray(np.mean([np.mean(same, axis=0) for same in by_order.values()], axis=0))


def _shares_of_vote(vote: Vote) -> Floats:
    count = len(vote.order)
    if vote.ranking is not None:
        ranks = np.empty(count)
        ranks[list(vote.order)] = vote.ranking
        return np.asarray((np.sign(ranks[None, :] - ranks[:, None]) + 1) / 2)
    shares = np.full((count, count), 0.5)
    first_share = vote.first_share
    if first_share is not None:
        shares[0, 1], shares[1, 0] = first_share, 1 - first_share
    return shares


def _unrounded(values: Floats) -> Floats:
    """Values without the last digits, in which a sum of thirds differs from one half."""
    return np.asarray(np.round(values, 12))


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."
