"""A judge in this process whose verdicts are stored as a server's are, so that none is worked out twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from itertools import islice

from exptilt.preferences import Comparison, Judge, Verdict
from exptilt.votes.vote_records import Rater, canonical_order, verdict_of, vote_of
from exptilt.votes.vote_store import VoteStore

_AT_ONCE = 16
"""Comparisons whose verdicts are stored together: what a kill can cost."""


class RememberedJudge:
    """Gives stored verdicts where there are both orders of a comparison, and asks the judge for the others.

    A verdict that is `unscored` is stored too, and asked for once more by the next run.

    Args:
        judge: its identity says everything that could change a verdict.
        store: where verdicts are, and go.
        question: of its votes.
    """

    def __init__(self, judge: Judge, store: VoteStore, question: str = "better") -> None:
        self.judge, self._store, self._question = judge, store, question

    @property
    def name(self) -> str:
        """The judge's."""
        return self.judge.name

    @property
    def identity(self) -> str:
        """The judge's."""
        return self.judge.identity

    def __call__(self, comparisons: Iterable[Comparison]) -> Iterator[Verdict]:
        """Verdicts in both orders, comparison by comparison."""
        votes = self._store.votes(identity=self.identity)
        stored = {(vote.comparison, vote.order): vote for vote in votes if vote.question == self._question}
        unscored = {vote.nonce for vote in votes if vote.outcome == "unscored"}
        waiting = iter(comparisons)
        while block := list(islice(waiting, _AT_ONCE)):
            given: dict[str, list[Verdict]] = {}
            missing = []
            for pair in block:
                both = [stored.get((pair.id, order)) for order in ((0, 1), (1, 0))]
                if all(vote is not None and vote.outcome != "unscored" for vote in both):
                    given[pair.id] = [verdict_of(pair, vote) for vote in both if vote is not None]
                else:
                    missing.append(pair)
            if missing:
                given |= self._asked(missing, unscored)
            for pair in block:
                yield from given.get(pair.id, ())

    def _asked(self, comparisons: list[Comparison], unscored: set[str]) -> dict[str, list[Verdict]]:
        given: dict[str, list[Verdict]] = {}
        rows = []
        by_id = {pair.id: pair for pair in comparisons}
        rater = Rater("judge", self.name, self.identity)
        for verdict in self.judge(comparisons):
            pair = by_id[verdict.comparison]
            given.setdefault(pair.id, []).append(verdict)
            nonce, failed = self._nonce(pair, verdict), f"unscored-{self._nonce(pair, verdict)}"
            supersedes = failed if failed in unscored and verdict.outcome != "unscored" else None
            nonce = failed if verdict.outcome == "unscored" else nonce
            vote = vote_of(pair, verdict, rater, nonce, question=self._question, supersedes=supersedes)
            rows.append((pair, vote, ()))
        self._store.add_all(rows)
        return given

    def _nonce(self, pair: Comparison, verdict: Verdict) -> str:
        place = canonical_order(pair)
        content = [self.identity, pair.id, [place[position] for position in verdict.order], self._question]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()
