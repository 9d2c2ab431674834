"""The votes of a store as arrays over the work of a page: who voted on what, kept up to date row by row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from exptilt.people.items import Item
from exptilt.people.tool_votes import IMPORTED
from exptilt.votes.vote_records import ADJUDICATOR, Vote, VoteRow


@dataclass(frozen=True, slots=True)
class _Live:
    """A vote of a person that was not taken back."""

    nonce: str
    task: int
    replicate: int
    counts: bool


@dataclass
class PersonState:
    """What one person did."""

    voted: NDArray[np.bool_]
    """(T,) tasks that the person voted on or skipped."""
    voted_at: NDArray[np.int64]
    """(T,) how many votes the person had given before."""
    repeated: NDArray[np.bool_]
    """(T,) tasks that were asked a second time."""
    orders: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """The order shown at the first time, by task."""
    live: dict[str, _Live] = field(default_factory=dict)
    """Votes that were not taken back, by nonce, in the order they came."""
    attempts: Counter[tuple[int, int]] = field(default_factory=Counter)
    """How often a vote was taken back, by task and replicate."""
    times: list[float] = field(default_factory=list)
    """Seconds since the epoch of every row but imported ones."""


class VoteIndex:
    """T tasks, one for each item and question: task `item * Q + question`.

    Args:
        items: in the order of work.
        questions: in the order they are asked.
    """

    def __init__(self, items: Sequence[Item], questions: Sequence[str]) -> None:
        self._item_of = {item.id: at for at, item in enumerate(items)}
        self._question_of = {question: at for at, question in enumerate(questions)}
        self.num_tasks = len(items) * len(questions)
        self.counted = np.zeros(self.num_tasks, dtype=np.int64)
        """(T,) people who voted on each task; skips and repeats do not count."""
        self.people: dict[str, PersonState] = {}
        self.nonces: set[str] = set()
        """Of every row so far."""
        self.last = 0
        """The number of the last row."""

    def task(self, comparison: str, question: str) -> int | None:
        """The task of a comparison and a question; None where it is no work of this page."""
        item, asked = self._item_of.get(comparison), self._question_of.get(question)
        return None if item is None or asked is None else item * len(self._question_of) + asked

    def person(self, name: str) -> PersonState:
        """What a person did, also where that is nothing."""
        if name not in self.people:
            none = np.zeros(self.num_tasks, dtype=bool)
            self.people[name] = PersonState(none, np.zeros(self.num_tasks, dtype=np.int64), none.copy())
        return self.people[name]

    def add(self, row: VoteRow) -> None:
        """Take in the next row of the store."""
        vote = row.vote
        self.last = row.number
        self.nonces.add(vote.nonce)
        if vote.rater.kind != "person" or vote.rater.identity == ADJUDICATOR:
            return
        task = self.task(vote.comparison, vote.question)
        if task is None:
            return
        person = self.person(vote.rater.name)
        if not vote.nonce.startswith(IMPORTED):
            person.times.append(datetime.fromisoformat(row.created).timestamp())
        if vote.supersedes in person.live:
            self._take_back(person, person.live.pop(str(vote.supersedes)))
        if vote.outcome != "unscored":
            self._take_in(person, task, vote)

    def _take_in(self, person: PersonState, task: int, vote: Vote) -> None:
        counts = vote.replicate == 0 and vote.outcome != "skip" and not person.voted[task]
        if vote.replicate:
            person.repeated[task] = True
        elif not person.voted[task]:
            person.voted[task] = True
            person.voted_at[task] = len(person.live)
            person.orders[task] = vote.order
        self.counted[task] += counts
        person.live[vote.nonce] = _Live(vote.nonce, task, vote.replicate, counts)

    def _take_back(self, person: PersonState, live: _Live) -> None:
        person.attempts[live.task, live.replicate] += 1
        if live.replicate:
            person.repeated[live.task] = False
        else:
            person.voted[live.task] = False
        self.counted[live.task] -= live.counts
