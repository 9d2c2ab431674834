"""The desk hands out work, takes votes, and takes them back; every step is one transaction of the store.

What a person is given: what they were given before and have not answered; else a silent repeat or a known answer where one
is due; else the first comparison in the order of work on which fewer than the wanted number of people voted or are at work.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import sqlalchemy as sql
from numpy.typing import NDArray

from exptilt.errors import ConfigError
from exptilt.people.draw_order import Floats, draw_weights, fraction, order_shown, waiting_times
from exptilt.people.items import Item
from exptilt.people.vote_index import PersonState, VoteIndex
from exptilt.preferences import Comparison, Outcome
from exptilt.settings.label_settings import LabelRules
from exptilt.votes.showings import Showing, Showings
from exptilt.votes.vote_records import ADJUDICATOR, Rater, Vote
from exptilt.votes.vote_store import VoteStore

REPEAT_AFTER = 10
"""Votes between a comparison and its silent repeat, while there is other work."""
KNOWN_EVERY = 10
"""Votes for each comparison whose answer is known."""
Taken = Literal["stored", "again", "unknown"]
"""A vote is new, was there already, or is about nothing that was shown to this person."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a person sees next."""

    item: Item
    showing: Showing

    @property
    def answers(self) -> tuple[str, ...]:
        """The answers in the order shown."""
        in_order = sorted(self.item.comparison.answers)
        return tuple(in_order[at] for at in self.showing.order)


@dataclass(frozen=True, slots=True)
class PersonProgress:
    """How far one person is."""

    done: int
    left: int
    """Tasks that wait for this person; with several people a part of them is done by others."""
    at_others: int
    """Tasks that are left and lie with somebody else right now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Marked:
    """What a person said of what was shown."""

    outcome: Outcome | None = None
    ranking: tuple[int, ...] | None = None
    strength: str = ""
    note: str = ""


class Desk:
    """Hands out the work of one page.

    Args:
        store: where votes go.
        items: what is compared.
        rules: how work is handed out.
        clock: seconds since the epoch.

    Raises:
        ConfigError: the strategy has nothing to go by, or differs from the one that this store was begun with.
    """

    def __init__(
        self, store: VoteStore, items: Sequence[Item], rules: LabelRules, clock: Callable[[], float] = time.time
    ) -> None:
        self.store, self.rules = store, rules
        self._clock = clock
        self._showings = Showings(store)
        self.items, self.weights, self.times = self._in_order(items)
        self._by_id = {item.id: item for item in self.items}
        self.index = VoteIndex(self.items, rules.questions)
        self._known = np.repeat([item.right is not None for item in self.items], len(rules.questions))
        self._to_repeat: dict[str, NDArray[np.bool_]] = {}
        with store.exclusive() as connection:
            self._catch_up(connection)

    def next(self, person: str) -> tuple[Assignment | None, PersonProgress]:
        """The next piece of work, leased to the person, or None where there is none now; and how far the person is."""
        with self.store.exclusive() as connection:
            self._catch_up(connection)
            now = self._clock()
            leased = [one for one in self._showings.leased(connection, now) if one.nonce not in self.index.nonces]
            mine = [one for one in leased if one.person == person and self._task_of(one) is not None]
            others = [one for one in leased if one.person != person]
            chosen = mine[-1] if mine else self._choose(person, others)
            if chosen is not None:
                chosen = self._showings.lease(connection, chosen, now + 60 * self.rules.lease_minutes)
        return None if chosen is None else self._assignment(chosen), self._progress(person, others)

    def work(self, person: str) -> Assignment | None:
        """The next piece of work alone."""
        return self.next(person)[0]

    def item(self, comparison: str) -> Item | None:
        """The item of a comparison's id."""
        return self._by_id.get(comparison)

    def take(self, person: str, nonce: str, marked: Marked) -> Taken:
        """Store a vote; it is on disk when this returns, and one that comes twice is stored once.

        Raises:
            DiskError: the disk refuses; the vote is not stored.
        """
        with self.store.exclusive() as connection:
            showing = self._showings.of_nonce(connection, nonce)
            if showing is None or showing.person != person:
                return "unknown"
            item = self._by_id.get(showing.comparison)
            comparison = item.comparison if item else self.store.comparison(connection, showing.comparison)
            if comparison is None or not _fits(comparison, marked):
                return "unknown"
            vote = Vote(
                comparison=showing.comparison,
                rater=Rater("person", person),
                order=showing.order,
                outcome=marked.outcome,
                ranking=marked.ranking,
                question=showing.question,
                replicate=showing.replicate,
                strength=marked.strength if marked.outcome in ("first", "second") else "",
                note=marked.note,
                nonce=nonce,
            )
            new = self.store.add_within(connection, comparison, vote, sources=item.sources if item else ())
            self._showings.end(connection, nonce)
        return "stored" if new else "again"

    def undo(self, person: str) -> bool:
        """Take back a person's last vote by a new row, and give the same comparison to the person again.

        Returns:
            False where there is no vote to take back.
        """
        with self.store.exclusive() as connection:
            self._catch_up(connection)
            state = self.index.person(person)
            if not state.live:
                return False
            last = next(reversed(state.live.values()))
            item, question = self.items[last.task // len(self.rules.questions)], self._question(last.task)
            before = self._showings.of_nonce(connection, last.nonce)
            order = before.order if before else state.orders[last.task]
            taken_back = Vote(
                comparison=item.id,
                rater=Rater("person", person),
                order=order,
                outcome="unscored",
                question=question,
                replicate=last.replicate,
                note="taken back",
                supersedes=last.nonce,
                nonce=f"{last.nonce}-undo",
            )
            self.store.add_within(connection, item.comparison, taken_back)
            for one in self._showings.leased(connection, self._clock()):
                if one.person == person:
                    self._showings.end(connection, one.nonce)
            again = Showing(
                person=person,
                comparison=item.id,
                question=question,
                order=order,
                replicate=last.replicate,
                attempt=state.attempts[last.task, last.replicate] + 1,
            )
            self._showings.lease(connection, again, self._clock() + 60 * self.rules.lease_minutes)
            return True

    def adjudicate(self, owner: str, comparison: str, question: str, order: tuple[int, ...], marked: Marked) -> bool:
        """Store the owner's vote on a dispute; a later one replaces it.

        Returns:
            False where there is no such comparison here, or the vote does not fit it.
        """
        item = self._by_id.get(comparison)
        if item is None or question not in self.rules.questions or not _fits(item.comparison, marked):
            return False
        with self.store.exclusive() as connection:
            before = [
                row.vote.nonce
                for row in self.store.stored(connection=connection, comparison=comparison)
                if row.vote.rater.identity == ADJUDICATOR and row.vote.question == question
            ]
            vote = Vote(
                comparison=comparison,
                rater=Rater("person", owner, ADJUDICATOR),
                order=order,
                outcome=marked.outcome,
                ranking=marked.ranking,
                question=question,
                note=marked.note,
                supersedes=before[-1] if before else None,
                nonce=secrets.token_urlsafe(24),
            )
            return self.store.add_within(connection, item.comparison, vote, sources=item.sources)

    def _progress(self, person: str, held: Sequence[Showing]) -> PersonProgress:
        state = self.index.person(person)
        left = self._open(state)
        at_others = sum(left[task] for one in held if (task := self._task_of(one)) is not None)
        known = self._known & ~state.voted
        return PersonProgress(int(state.voted.sum()), int(left.sum() + known.sum()), int(at_others))

    def _choose(self, person: str, held: Sequence[Showing]) -> Showing | None:
        state = self.index.person(person)
        open_tasks = self._open(state, held)
        repeat = self._repeat(person, state, at_once=not open_tasks.any())
        if repeat is not None:
            return self._showing(person, state, repeat, 1)
        known = np.flatnonzero(self._known & ~state.voted)
        if len(known) and self._known_is_due(person, state):
            return self._showing(person, state, int(known[0]), 0)
        if open_tasks.any():
            return self._showing(person, state, int(open_tasks.argmax()), 0)
        return None

    def _open(self, state: PersonState, held: Sequence[Showing] = ()) -> NDArray[np.bool_]:
        """(T,) what this person may be given, in the order of work."""
        given = self.index.counted.copy()
        for one in held:
            task = self._task_of(one)
            if task is not None and one.replicate == 0:
                given[task] += 1
        return np.asarray(~state.voted & ~self._known & (given < self.rules.wanted))

    def _repeat(self, person: str, state: PersonState, *, at_once: bool) -> int | None:
        if person not in self._to_repeat:
            ids = [item.id for item in self.items for _ in self.rules.questions]
            chances = np.array([fraction("repeat", self.rules.seed, person, one) for one in ids])
            self._to_repeat[person] = (chances < self.rules.repeats) & ~self._known
        since = len(state.live) - state.voted_at
        due = self._to_repeat[person] & state.voted & ~state.repeated & (since > (1 if at_once else REPEAT_AFTER))
        return int(due.argmax()) if due.any() else None

    def _known_is_due(self, person: str, state: PersonState) -> bool:
        answered = int((self._known & state.voted).sum())
        others = int((~self._known & state.voted).sum())
        jitter = int(fraction("known", self.rules.seed, person, answered) * KNOWN_EVERY)
        return others >= answered * KNOWN_EVERY + jitter

    def _showing(self, person: str, state: PersonState, task: int, replicate: int) -> Showing:
        at = task // len(self.rules.questions)
        order = order_shown(self.items[at], at, person, self.rules.seed)
        if replicate:
            order = state.orders[task][::-1]
        return Showing(
            person=person,
            comparison=self.items[at].comparison.id,
            question=self._question(task),
            order=order,
            replicate=replicate,
            attempt=state.attempts[task, replicate],
        )

    def _question(self, task: int) -> str:
        return self.rules.questions[task % len(self.rules.questions)]

    def _task_of(self, showing: Showing) -> int | None:
        return self.index.task(showing.comparison, showing.question)

    def _assignment(self, showing: Showing) -> Assignment:
        return Assignment(self._by_id[showing.comparison], showing)

    def _catch_up(self, connection: sql.Connection) -> None:
        for row in self.store.stored(self.index.last, connection):
            self.index.add(row)

    def _in_order(self, items: Sequence[Item]) -> tuple[tuple[Item, ...], Floats, Floats]:
        """Items in the order of work, with their weights and waiting times, which stay what they were at the first start."""
        strategy = self.rules.next
        with self.store.exclusive() as connection:
            drawn = self._showings.draw_weights(connection)
            other = {how for how, _ in drawn.values()} - {strategy}
            if other:
                raise ConfigError(
                    f"{self.store.name}: was begun with --next {min(other)}; go on with it, or name another store"
                )
            new = [item for item in items if item.id not in drawn]
            if new:
                votes = [] if strategy == "random" else [row.vote for row in self.store.stored(connection=connection)]
                weights = draw_weights(strategy, new, votes)
                rows = [(item.id, strategy, float(w)) for item, w in zip(new, weights, strict=True)]
                self._showings.add_draw_weights(connection, rows)
                drawn |= {one: (how, weight) for one, how, weight in rows}
        ids = [item.id for item in items]
        all_weights = np.array([drawn[one][1] for one in ids])
        times = waiting_times(ids, all_weights, self.rules.seed)
        order = np.argsort(times, kind="stable")
        return tuple(items[at] for at in order), all_weights[order], times[order]


def _fits(comparison: Comparison, marked: Marked) -> bool:
    count = len(comparison.answers)
    if marked.ranking is not None:
        return marked.outcome is None and len(marked.ranking) == count
    return marked.outcome == "skip" or (count == 2 and marked.outcome in ("first", "second", "tie", "both_bad"))


def ranking_of(places: Sequence[int]) -> tuple[int, ...]:
    """Ranks without gaps: equal places are a tie, and the next rank is one more.

    Example:
        >>> ranking_of([3, 1, 3])
        (2, 1, 2)
    """
    steps = {place: rank for rank, place in enumerate(sorted(set(places)), start=1)}
    return tuple(steps[place] for place in places)
