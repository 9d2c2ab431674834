"""Votes that are in the store already, as a judge: people's, or those of a judge that was asked before."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from exptilt.judges.yardsticks import both
from exptilt.preferences import Comparison, Verdict
from exptilt.votes.vote_records import Vote, verdict_of


class StoredVotes:
    """Gives every stored vote on a comparison as a verdict; one that nobody voted on is unscored, in both orders.

    Args:
        votes: from a store.
        rater: a person or judge by name; None takes all people.
    """

    def __init__(self, votes: Sequence[Vote], rater: str | None = None) -> None:
        self.name = rater or "people"
        self._by: dict[str, list[Vote]] = defaultdict(list)
        raters = set()
        for vote in votes:
            wanted = vote.rater.kind == "person" if rater is None else vote.rater.name == rater
            if wanted and len(vote.order) == 2 and vote.outcome not in ("skip", "unscored"):
                self._by[vote.comparison].append(vote)
                raters.add(vote.rater)
        self.identity = f"votes of {', '.join(sorted(f'{r.kind} {r.name} {r.identity}'.strip() for r in raters))}"

    def __call__(self, comparisons: Iterable[Comparison]) -> Iterator[Verdict]:
        """Stored verdicts; their number differs between comparisons."""
        for comparison in comparisons:
            votes = self._by.get(comparison.id)
            if votes:
                yield from (verdict_of(comparison, vote) for vote in votes)
            else:
                yield from both(comparison, "unscored", "unscored")
