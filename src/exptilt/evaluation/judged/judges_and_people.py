"""How judges and people agree: one code for `exptilt agree` and for the people's page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from exptilt.evaluation.intervals import DEFAULT, Floats, Resampling
from exptilt.evaluation.judged.agreement import alpha_interval, in_their_stead, majority_agreement, pair_agreement
from exptilt.evaluation.judged.alternative_test import alternative_test
from exptilt.evaluation.judged.prediction_powered import PredictionPowered, prediction_powered
from exptilt.evaluation.judged.two_way import two_way_mean
from exptilt.evaluation.result import Panel
from exptilt.run_folder.estimate_record import Estimate
from exptilt.votes.rater_table import FIRST, TIE, RaterTable
from exptilt.votes.vote_records import Rater, Vote

Sources = Mapping[str, Mapping[int, Sequence[str]]]
"""Who wrote the answers, by comparison and position."""
_MOST_POLICIES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteCounts(Panel):
    """What one rater's votes were, and what is not among them."""

    votes: int
    """That choose an answer or say that neither is better."""
    ties: int
    """Of these: neither is better, or both are bad."""
    skipped: int
    unscored: int
    missing: int
    """Items that people voted on and this rater did not choose on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyByBoth(Panel):
    """One policy's win rate by people and by a judge."""

    people: Estimate
    """On the items that both voted on."""
    judge: Estimate
    """On the same items."""
    bias: Estimate
    """Judge minus people, paired, clustered by item and person."""
    powered: PredictionPowered | None
    """Both together; None where the judge has no item of its own."""


def judges_and_people(
    table: RaterTable, votes: Sequence[Vote], epsilon: float = 0.1, resampling: Resampling = DEFAULT
) -> dict[str, Any]:
    """Put every judge, and each person beside the others, next to people.

    Args:
        table: of people and judges.
        votes: the same votes, for counts of what the table leaves out.
        epsilon: of the Alt-Test.
        resampling: of the intervals.

    Returns:
        items (with votes of people), raters (agreement, counts, tests by name), alpha of the people, and
        leave_one_out: for each person, agreement with the majority of the others and what each judge gains in its place.
    """
    people = table.categories[:, table.are_people]
    names = rater_names(table.raters)
    columns = {"longest": table.longest} | {names[k]: table.categories[:, k] for k in np.flatnonzero(~table.are_people)}
    counts = _counts(table, votes)
    raters: dict[str, Any] = {}
    for k in np.flatnonzero(table.are_people):  # what a judge has to reach
        others = np.delete(people, k, axis=1)
        if others.size and _meets(people[:, k], others):
            raters[names[k]] = _rater(people[:, k], others, table, None, resampling)
    for name, given in columns.items():
        if _meets(given, people):
            raters[name] = _rater(given, people, table, epsilon, resampling)
    return {
        "items": int((~np.isnan(people)).any(axis=1).sum()),
        "raters": {name: one | {"counts": counts.get(name)} for name, one in raters.items()},
        "without_people": [name for name, given in columns.items() if not _meets(given, people)],
        "alpha": alpha_interval(people, resampling) if people.shape[1] > 1 else None,
        "leave_one_out": _leave_one_out(people, columns, names, resampling) if people.shape[1] > 2 else {},
    }


def rater_names(raters: Sequence[Rater]) -> list[str]:
    """A name for each rater; several of one name get their number, or their kind where that tells them apart.

    Example:
        >>> rater_names([Rater("person", "m"), Rater("judge", "m", "a"), Rater("judge", "k", "a"), Rater("judge", "k", "b")])
        ['m (person)', 'm (judge)', 'k #1', 'k #2']
    """
    by_name, by_both = Counter(one.name for one in raters), Counter((one.name, one.kind) for one in raters)
    seen: Counter[tuple[str, str]] = Counter()
    names = []
    for one in raters:
        seen[one.name, one.kind] += 1
        kind = f" ({one.kind})" if by_name[one.name] > by_both[one.name, one.kind] else ""
        number = f" #{seen[one.name, one.kind]}" if by_both[one.name, one.kind] > 1 else ""
        names.append(f"{one.name}{kind}{number}")
    return names


def by_policy(
    table: RaterTable, sources: Sources, policy: str | None, resampling: Resampling = DEFAULT
) -> dict[str, dict[str, PolicyByBoth]]:
    """Win rates of policies by people and by each judge, and by both together.

    Args:
        table: of people and judges.
        sources: who wrote the answers.
        policy: one of the sources; None takes all that both have voted on, the 8 most frequent.
        resampling: of the intervals.
    """
    named = Counter(name for one in table.comparisons for held in sources.get(one.id, {}).values() for name in held)
    wanted = [policy] if policy is not None else [name for name, _ in named.most_common()]
    found: dict[str, dict[str, PolicyByBoth]] = {}
    for name in wanted:
        by_judge = _one_policy(table, sources, name, resampling)
        if by_judge:
            found[name] = by_judge
        if len(found) == _MOST_POLICIES:
            break
    return found


def _one_policy(table: RaterTable, sources: Sources, policy: str, resampling: Resampling) -> dict[str, PolicyByBoth]:
    side = np.array([_position(sources.get(one.id, {}), policy) for one in table.comparisons])
    wins = np.where(side[:, None] == FIRST, table.shares, 1 - table.shares)
    wins[np.isnan(side)] = np.nan
    by_person = wins[:, table.are_people]
    names, people = rater_names(table.raters), _means(by_person)
    found = {}
    for k in np.flatnonzero(~table.are_people):
        judge = wins[:, k]
        item, person = np.nonzero(~np.isnan(judge)[:, None] & ~np.isnan(by_person))
        if len(np.unique(item)) < 2:
            continue
        voted = by_person[item, person]
        both, alone = ~np.isnan(judge) & ~np.isnan(people), ~np.isnan(judge) & np.isnan(people)
        found[names[k]] = PolicyByBoth(
            people=two_way_mean(voted, item, person, resampling, within=(0.0, 1.0)),
            judge=two_way_mean(judge[item], item, np.zeros(len(item)), resampling, within=(0.0, 1.0)),
            bias=two_way_mean(judge[item] - voted, item, person, resampling, within=(-1.0, 1.0)),
            powered=prediction_powered(people[both], judge[both], judge[alone], resampling.level)
            if alone.sum() > 1
            else None,
        )
    return found


def _counts(table: RaterTable, votes: Sequence[Vote]) -> dict[str, VoteCounts]:
    outcomes: dict[Rater, Counter[str]] = {}
    for vote in votes:
        outcomes.setdefault(vote.rater, Counter())[vote.outcome or "ranking"] += 1
    voted = ~np.isnan(table.shares[:, table.are_people]).all(axis=1)
    counts = {}
    for name, rater, given in zip(rater_names(table.raters), table.raters, table.shares.T, strict=True):
        of = outcomes.get(rater, Counter())
        counts[name] = VoteCounts(
            votes=of.total() - of["skip"] - of["unscored"],
            ties=of["tie"] + of["both_bad"],
            skipped=of["skip"],
            unscored=of["unscored"],
            missing=int((voted & np.isnan(given)).sum()),
        )
    return counts


def _meets(votes: Floats, people: Floats) -> bool:
    return bool((~np.isnan(votes)[:, None] & ~np.isnan(people)).any())


def _rater(
    votes: Floats, people: Floats, table: RaterTable, epsilon: float | None, resampling: Resampling
) -> dict[str, Any]:
    return {
        "pair": pair_agreement(votes, people, resampling),
        "majority": majority_agreement(votes, people),
        "lean_to_length": _lean_to_length(votes, people, table, resampling),
        "alternative_test": None if epsilon is None else alternative_test(votes, people, epsilon),
    }


def _leave_one_out(
    people: Floats, columns: Mapping[str, Floats], names: Sequence[str], resampling: Resampling
) -> dict[str, Any]:
    """By person: the agreement with the majority of the others, and what each judge gains in its place."""
    gains = {name: in_their_stead(given, people, resampling) for name, given in columns.items()}
    return {
        names[k]: {
            "person": majority_agreement(people[:, k], np.delete(people, k, axis=1)),
            "gains": {name: by_person[k] for name, by_person in gains.items() if k in by_person},
        }
        for k in range(people.shape[1])
    }


def _lean_to_length(votes: Floats, people: Floats, table: RaterTable, resampling: Resampling) -> Estimate | None:
    """How much oftener than people a rater prefers the longer answer, on items that both voted on."""
    both = ~np.isnan(votes)[:, None] & ~np.isnan(people) & (table.longest != TIE)[:, None]
    item, person = np.nonzero(both)
    if not len(item):
        return None
    longest = table.longest[item]
    return two_way_mean(
        _longer(votes[item], longest) - _longer(people[item, person], longest), item, person, resampling
    )


def _longer(votes: Floats, longest: Floats) -> Floats:
    return np.asarray(np.where(votes == TIE, 0.5, (votes == longest).astype(np.float64)))


def _means(values: Floats) -> Floats:
    count = (~np.isnan(values)).sum(axis=1)
    return np.asarray(np.divide(np.nansum(values, axis=1), count, out=np.full(len(values), np.nan), where=count > 0))


def _position(names: Mapping[int, Sequence[str]], policy: str) -> float:
    held = [position for position, writers in names.items() if policy in writers]
    return float(held[0]) if len(held) == 1 else float("nan")
