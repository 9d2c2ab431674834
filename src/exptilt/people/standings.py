"""The owner's numbers: progress and pace, agreement, win rates and what would settle them, what is in dispute.

The statistics are those of `exptilt agree` and `exptilt judge`; a judge is one more rater. Repeats measure a rater against
themselves and known answers measure accuracy; neither counts anywhere else.
"""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from exptilt.evaluation.intervals import Resampling, ratio, wilson
from exptilt.evaluation.judged.agreement import alpha_interval, majority_agreement
from exptilt.evaluation.judged.judgements import Judgements
from exptilt.evaluation.judged.win_rate import win_rates
from exptilt.people.desk import Desk
from exptilt.people.draw_order import Floats, inclusion
from exptilt.people.items import Item, prompts_of_items
from exptilt.run_folder.estimate_record import Estimate
from exptilt.votes.rater_table import RaterTable, rater_table
from exptilt.votes.vote_records import ADJUDICATOR, Rater, Vote, VoteRow, canonical_order

PAUSE = 600.0
"""Seconds between two votes that are a pause, and no part of anybody's pace."""
_POWER = 0.84
"""Quantile of a power of 80 %."""
_LARGE = 3000
"""Comparisons from which the bootstrap takes fewer resamples, so that the page stays quick."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RaterStanding:
    """One rater."""

    rater: Rater
    votes: int
    skips: int
    per_hour: float | None
    hours_left: float | None
    with_others: float | None
    """Share of comparisons on which the vote is what most people say; the rater's own vote is not among theirs."""
    with_self: Estimate | None
    """Share of silent repeats, in the reverse order, with the same answer."""
    first: Estimate | None
    """Share of choices for the answer shown first: one half without a lean."""
    known: Estimate | None
    """Share of known answers that were found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchStanding:
    """Two sources, and which one people prefer."""

    one: str
    other: str
    rate: Estimate
    """Share of comparisons that `one` wins, a tie being one half; the mean of both orders."""
    comparisons: int
    corrected: bool
    """Whether comparisons are weighted by how likely they were to be asked."""

    @property
    def settled(self) -> bool:
        """Whether the interval excludes one half."""
        return self.rate.excludes(0.5)

    @property
    def more(self) -> int | None:
        """Further comparisons that would settle it with a power of 80 %, were the rate as it is; None: none in reach."""
        return comparisons_to_settle(self.rate, self.comparisons)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispute:
    """A comparison on which people differ."""

    item: Item
    question: str
    says: tuple[tuple[str, int], ...]
    """(rater, position in the sorted answers or -1 for neither), by name."""
    settled: bool
    """Whether the owner has voted on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standings:
    """Everything on the owner's page."""

    question: str
    comparisons: int
    finished: int
    """Comparisons with all wanted votes."""
    missing: int
    """Votes that are still wanted."""
    raters: tuple[RaterStanding, ...]
    alpha: Estimate | None
    matches: tuple[MatchStanding, ...]
    disputes: tuple[Dispute, ...]
    last: int
    """The number of the last row that this is about."""


def comparisons_to_settle(rate: Estimate, comparisons: int) -> int | None:
    """How many further comparisons a win rate needs, were it to stay what it is.

        ((z + z_power) sd / |rate - 1/2|)^2 - n,   sd = half-width * sqrt(n) / z

    Example:
        >>> comparisons_to_settle(Estimate(value=0.6, low=0.45, high=0.75, level=0.95), 43)
        155
        >>> comparisons_to_settle(Estimate(value=0.5, low=0.4, high=0.6, level=0.95), 90) is None
        True
    """
    if rate.interval is None or rate.value is None or rate.excludes(0.5):
        return 0 if rate.interval else None
    low, high = rate.interval
    gap = abs(rate.value - 0.5)
    if gap < 0.005:
        return None
    sd = (high - low) / 2 * math.sqrt(comparisons) / 1.96
    return max(1, math.ceil(((1.96 + _POWER) * sd / gap) ** 2) - comparisons)


class StandingsBoard:
    """Keeps the rows of a desk's store and works out standings anew when there are more.

    Args:
        desk: whose items and rules count.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._rows: list[VoteRow] = []
        self._last: dict[str, Standings] = {}
        self._good_until: dict[str, float] = {}

    def of(self, question: str) -> Standings:
        """Standings of one question; where they cost more than a second, those of a while ago, so that raters need not wait."""
        known, began = self._last.get(question), time.monotonic()
        if known is not None and began < self._good_until.get(question, 0.0):
            return known
        self._rows += self._desk.store.stored(self._rows[-1].number if self._rows else 0)
        last = self._rows[-1].number if self._rows else 0
        if known is None or known.last != last:
            known = self._last[question] = standings(self._desk, self._rows, question)
        cost = time.monotonic() - began
        self._good_until[question] = began + (20 * cost if cost > 1 else 0)
        return known


def standings(desk: Desk, rows: Sequence[VoteRow], question: str) -> Standings:
    """Assignment out everything on the owner's page from the rows of a store.

    Args:
        desk: whose items and rules count; votes on other comparisons do not.
        rows: all of them.
        question: which is asked.
    """
    gone = {row.vote.supersedes for row in rows if row.vote.supersedes}
    mine = [
        row
        for row in rows
        if desk.item(row.vote.comparison) and row.vote.question == question and row.vote.nonce not in gone
        if row.vote.outcome != "unscored"
    ]
    all_votes = [row.vote for row in mine]
    known_ids = {item.id for item in desk.items if item.right is not None}
    votes = [vote for vote in all_votes if not vote.replicate and vote.comparison not in known_ids]
    plain = [vote for vote in votes if vote.rater.identity != ADJUDICATOR]
    table = rater_table(plain, {item.id: item.comparison for item in desk.items})
    people = table.categories[:, table.are_people]
    counted = Counter(vote.comparison for vote in plain if vote.rater.kind == "person" and vote.outcome != "skip")
    to_ask = [item for item in desk.items if item.right is None]
    missing = sum(max(0, desk.rules.wanted - counted[item.id]) for item in to_ask)
    resampling = Resampling(num_resamples=200) if len(people) > _LARGE else Resampling()
    return Standings(
        question=question,
        comparisons=len(to_ask),
        finished=sum(counted[item.id] >= desk.rules.wanted for item in to_ask),
        missing=missing,
        raters=_raters(mine, table, desk, missing),
        alpha=alpha_interval(people, resampling) if people.shape[1] > 1 and _meet(people) else None,
        matches=tuple(_matches(desk, plain, resampling)),
        disputes=_disputes(desk, votes, question),
        last=rows[-1].number if rows else 0,
    )


def _meet(people: Floats) -> bool:
    return bool(((~np.isnan(people)).sum(axis=1) > 1).any())


def _raters(rows: Sequence[VoteRow], table: RaterTable, desk: Desk, missing: int) -> tuple[RaterStanding, ...]:
    by: dict[Rater, list[VoteRow]] = defaultdict(list)
    for row in rows:
        if row.vote.rater.identity != ADJUDICATOR:
            by[row.vote.rater].append(row)
    num_people = sum(rater.kind == "person" for rater in by)
    return tuple(
        _rater(rater, own, table, desk, missing / max(1, num_people))
        for rater, own in sorted(by.items(), key=lambda pair: (pair[0].kind != "person", pair[0].name))
    )


def _rater(rater: Rater, rows: Sequence[VoteRow], table: RaterTable, desk: Desk, left: float) -> RaterStanding:
    votes = [row.vote for row in rows]
    person = rater.kind == "person"
    seconds = _seconds_per_vote(desk.index.person(rater.name).times) if person else None
    choices = [vote.outcome == "first" for vote in votes if vote.outcome in ("first", "second")]
    return RaterStanding(
        rater=rater,
        votes=sum(vote.outcome != "skip" and not vote.replicate for vote in votes),
        skips=sum(vote.outcome == "skip" for vote in votes),
        per_hour=None if seconds is None else 3600 / seconds,
        hours_left=None if seconds is None else left * seconds / 3600,
        with_others=_with_others(rater, table),
        with_self=_share(_with_self(votes)) if person else None,
        first=_share(choices),
        known=_share(_right(vote, desk) for vote in votes if _is_known(vote, desk) and vote.outcome != "skip"),
    )


def _seconds_per_vote(times: Sequence[float]) -> float | None:
    gaps = np.diff(np.sort(np.asarray(times)))
    working = gaps[(gaps > 0) & (gaps < PAUSE)]
    return float(np.median(working)) if len(working) else None


def _with_others(rater: Rater, table: RaterTable) -> float | None:
    if rater not in table.raters:
        return None
    column = table.raters.index(rater)
    others = table.are_people.copy()
    others[column] = False
    share = majority_agreement(table.categories[:, column], table.categories[:, others])
    return None if math.isnan(share) else share


def _with_self(votes: Sequence[Vote]) -> Iterable[bool]:
    first = {vote.comparison: vote for vote in votes if not vote.replicate and vote.outcome != "skip"}
    for vote in votes:
        before = first.get(vote.comparison)
        if vote.replicate and before is not None and vote.outcome != "skip":
            if vote.ranking is not None and before.ranking is not None:
                yield _ranks(vote) == _ranks(before)
            else:
                yield vote.first_share == before.first_share


def _ranks(vote: Vote) -> dict[int, int]:
    return dict(zip(vote.order, vote.ranking or (), strict=True))


def _is_known(vote: Vote, desk: Desk) -> bool:
    item = desk.item(vote.comparison)
    return item is not None and item.right is not None


def _right(vote: Vote, desk: Desk) -> bool:
    item = desk.item(vote.comparison)
    if item is None or item.right is None:
        return False
    return vote.first_share == (1.0 if canonical_order(item.comparison)[item.right] == 0 else 0.0)


def _share(hits: Iterable[bool]) -> Estimate | None:
    values = list(hits)
    return wilson(sum(values), len(values)) if values else None


def _matches(desk: Desk, votes: Sequence[Vote], resampling: Resampling) -> Iterable[MatchStanding]:
    """Win rates of people between the sources of answers."""
    prompts = prompts_of_items(desk.items)
    chances = _chances(desk, votes)
    rows: dict[tuple[str, str], list[tuple[str, str, float, bool]]] = defaultdict(list)
    for vote in votes:
        item, share = desk.item(vote.comparison), vote.first_share
        if vote.rater.kind != "person" or share is None or item is None or len(item.sources) != 2:
            continue
        first = canonical_order(item.comparison)[0]  # where the first source's answer stands among the sorted ones
        one, other = item.sources
        if one > other and (other, one) in rows:  # the same two, written the other way round
            one, other, first = other, one, 1 - first
        if one != other:
            rows[one, other].append(
                (vote.comparison, prompts[vote.comparison], share if first == 0 else 1 - share, vote.order[0] == first)
            )
    for (one, other), asked in rows.items():
        ids, keys, wins, shown_first = (list(column) for column in zip(*asked, strict=True))
        weights = 1 / np.array([chances[key] for key in ids])
        kept = np.isfinite(weights)
        if not kept.any():
            continue
        if desk.rules.next == "random":
            rate = win_rates(Judgements(keys, wins, shown_first), resampling).swap_average
        else:
            labels = [key for key, keep in zip(keys, kept, strict=True) if keep]
            rate = ratio((weights * wins)[kept], weights[kept], labels, resampling)
        if rate is not None:
            yield MatchStanding(
                one=one, other=other, rate=rate, comparisons=len(set(ids)), corrected=desk.rules.next != "random"
            )


def _chances(desk: Desk, votes: Sequence[Vote]) -> Mapping[str, float]:
    """How likely each comparison was to be asked by now."""
    if desk.rules.next == "random":
        return dict.fromkeys((item.id for item in desk.items), 1.0)
    voted = {vote.comparison for vote in votes if vote.rater.kind == "person"}
    rows = [at for at, item in enumerate(desk.items) if item.right is None]
    asked = [desk.items[at].comparison.id in voted for at in rows]
    chances = inclusion(desk.times[rows], desk.weights[rows], asked)
    return {item.id: 1.0 for item in desk.items} | {
        desk.items[at].comparison.id: float(chance) for at, chance in zip(rows, chances, strict=True)
    }


def _disputes(desk: Desk, votes: Sequence[Vote], question: str) -> tuple[Dispute, ...]:
    says: dict[str, dict[str, int]] = defaultdict(dict)
    settled = set()
    for vote in votes:
        if vote.rater.kind != "person" or vote.outcome == "skip":
            continue
        if vote.rater.identity == ADJUDICATOR:
            settled.add(vote.comparison)
        else:
            says[vote.comparison][vote.rater.name] = _best(vote)
    found = []
    for key, by_person in says.items():
        item = desk.item(key)
        if item is not None and len(set(by_person.values())) > 1:
            found.append(
                Dispute(item=item, question=question, says=tuple(sorted(by_person.items())), settled=key in settled)
            )
    return tuple(sorted(found, key=lambda dispute: (dispute.settled, -1 in dict(dispute.says).values())))


def _best(vote: Vote) -> int:
    """Position of the answer a vote is for among the sorted answers; -1 for none of them."""
    if vote.ranking is not None:
        best = [at for at, rank in zip(vote.order, vote.ranking, strict=True) if rank == 1]
        return best[0] if len(best) == 1 else -1
    return {"first": vote.order[0], "second": vote.order[1]}.get(str(vote.outcome), -1)
