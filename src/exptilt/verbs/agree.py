"""`exptilt agree`: do judges agree with people, and what are their labels worth?"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exptilt.disk import require_free, write_whole
from exptilt.errors import DataError
from exptilt.evaluation.intervals import DEFAULT, Resampling, paired_difference
from exptilt.evaluation.judged.agreement import alpha_interval, leave_one_out, majority_agreement, pair_agreement
from exptilt.evaluation.judged.alternative_test import alternative_test
from exptilt.evaluation.judged.prediction_powered import prediction_powered
from exptilt.preferences import Comparison
from exptilt.reports.tables.judged_table import print_agreement
from exptilt.votes.rater_table import FIRST, TIE, RaterTable, rater_table
from exptilt.votes.vote_records import Vote
from exptilt.votes.vote_store import VoteStore

Floats = NDArray[np.float64]
Sources = Mapping[str, Mapping[int, Sequence[str]]]


def agree(
    stores: Sequence[str],
    *,
    epsilon: float = 0.1,
    policy: str | None = None,
    output: Path | None = None,
    resampling: Resampling = DEFAULT,
) -> dict[str, Any]:
    """Compare every judge, and every person with the others, with people.

    Args:
        stores: stores of votes, taken together.
        epsilon: of the Alt-Test.
        policy: whose win rate is estimated from people and judges together; its answers are those the stores name it
            as the source of.
        output: a JSON file for the numbers.
        resampling: bootstrap over items.

    Raises:
        DataError: no votes of people, or nobody to compare them with.
    """
    if output is not None:
        require_free(output)
    votes, comparisons, sources = _read(stores)
    table = rater_table(votes, comparisons)
    people = table.categories[:, table.are_people]
    if not people.size:
        raise DataError(f"{', '.join(stores)}: no votes of people on two answers; `exptilt label` gathers them")
    columns = {"longest": table.longest} | _judges(table)
    if people.shape[1] == 1 and len(columns) == 1:
        raise DataError(f"{', '.join(stores)}: one person and no judge: nobody to compare with")
    voted = ~np.isnan(people).all(axis=1)
    found: dict[str, Any] = {
        "items": int(voted.sum()),
        "raters": _people(table, people, resampling)
        | {
            name: _rater(votes, people, table, epsilon, resampling)
            for name, votes in columns.items()
            if _meets(votes, people)
        },
        "alpha": alpha_interval(people, resampling) if people.shape[1] > 1 else None,
        "leave_one_out": leave_one_out(people) if people.shape[1] > 2 else {},
        "powered": {} if policy is None else _powered(table, sources, policy),
    }
    print_agreement(found)
    if output is not None:
        from exptilt.verbs.judge import as_json

        write_whole(output, json.dumps(as_json(found), indent=2) + "\n")
    return found


def _read(stores: Sequence[str]) -> tuple[list[Vote], dict[str, Comparison], Sources]:
    votes: dict[str, Vote] = {}
    comparisons: dict[str, Comparison] = {}
    sources: dict[str, Mapping[int, Sequence[str]]] = {}
    for where in stores:
        with VoteStore(where, create=False) as store:
            votes |= {vote.nonce: vote for vote in store.votes()}
            comparisons |= store.comparisons()
            sources |= store.sources()
    return list(votes.values()), comparisons, sources


def _judges(table: RaterTable) -> dict[str, Floats]:
    names = Counter(rater.name for rater in table.raters)
    judges = np.flatnonzero(~table.are_people)
    return {
        table.raters[k].name + (f" #{k + 1}" if names[table.raters[k].name] > 1 else ""): table.categories[:, k]
        for k in judges
    }


def _meets(votes: Floats, people: Floats) -> bool:
    return bool((~np.isnan(votes)[:, None] & ~np.isnan(people)).any())


def _people(table: RaterTable, people: Floats, resampling: Resampling) -> dict[str, Any]:
    """Each person beside the others: what a judge has to reach."""
    found = {}
    for k, rater in enumerate(rater for rater in table.raters if rater.kind == "person"):
        others = np.delete(people, k, axis=1)
        if others.size and _meets(people[:, k], others):
            found[rater.name] = _rater(people[:, k], others, table, None, resampling)
    return found


def _rater(
    votes: Floats, people: Floats, table: RaterTable, epsilon: float | None, resampling: Resampling
) -> dict[str, Any]:
    return {
        "pair": pair_agreement(votes, people, resampling),
        "majority": majority_agreement(votes, people),
        "bias": _lean_to_length(votes, people, table, resampling),
        "alternative_test": None if epsilon is None else alternative_test(votes, people, epsilon),
    }


def _lean_to_length(votes: Floats, people: Floats, table: RaterTable, resampling: Resampling) -> Any:
    """How much oftener than people a rater prefers the longer answer, on items that both voted on."""
    rows = ~np.isnan(votes) & ~np.isnan(people).all(axis=1) & (table.longest != TIE)
    if not rows.any():
        return None
    theirs = np.nanmean(_longer(people[rows], table.longest[rows, None]), axis=1)
    return paired_difference(_longer(votes[rows], table.longest[rows]), theirs, np.flatnonzero(rows), resampling)


def _longer(votes: Floats, longest: Floats) -> Floats:
    share = np.where(votes == TIE, 0.5, (votes == longest).astype(np.float64))
    return np.asarray(np.where(np.isnan(votes), np.nan, share))


def _powered(table: RaterTable, sources: Sources, policy: str) -> dict[str, Any]:
    """A policy's win rate from few human and many judge labels, for each judge."""
    side = np.array([_position(sources.get(one.id, {}), policy) for one in table.comparisons])
    known = {name for one in sources.values() for names in one.values() for name in names}
    if np.isnan(side).all():
        raise DataError(
            f"--policy {policy}: no answer is known to be of it; known are {', '.join(sorted(known)) or 'none'}"
        )
    wins = np.where(side[:, None] == FIRST, table.shares, 1 - table.shares)
    wins[np.isnan(side)] = np.nan
    people = _means(wins[:, table.are_people])
    found = {}
    for k in np.flatnonzero(~table.are_people):
        judge = wins[:, k]
        both, alone = ~np.isnan(judge) & ~np.isnan(people), ~np.isnan(judge) & np.isnan(people)
        if both.sum() > 1 and alone.sum() > 1:
            found[table.raters[k].name] = prediction_powered(people[both], judge[both], judge[alone])
    return found


def _means(values: Floats) -> Floats:
    count = (~np.isnan(values)).sum(axis=1)
    return np.asarray(np.divide(np.nansum(values, axis=1), count, out=np.full(len(values), np.nan), where=count > 0))


def _position(names: Mapping[int, Sequence[str]], policy: str) -> float:
    held = [position for position, writers in names.items() if policy in writers]
    return float(held[0]) if len(held) == 1 else float("nan")
