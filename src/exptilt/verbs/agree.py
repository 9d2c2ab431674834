"""`exptilt agree`: do judges agree with people, and what are their labels worth?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from exptilt.disk import require_free, write_whole
from exptilt.errors import DataError
from exptilt.evaluation.intervals import DEFAULT, Resampling
from exptilt.evaluation.judged.judges_and_people import Sources, by_policy, judges_and_people
from exptilt.evaluation.result import plain
from exptilt.preferences import Comparison
from exptilt.reports.tables.agreement_table import print_agreement
from exptilt.votes.rater_table import rater_table
from exptilt.votes.vote_records import ADJUDICATOR, Vote
from exptilt.votes.vote_store import VoteStore


def agree(
    stores: Sequence[str],
    *,
    epsilon: float = 0.1,
    policy: str | None = None,
    question: str | None = None,
    output: Path | None = None,
    resampling: Resampling = DEFAULT,
) -> dict[str, Any]:
    """Compare every judge, and every person with the others, with people.

    Args:
        stores: stores of votes, taken together.
        epsilon: of the Alt-Test.
        policy: whose win rate is estimated from people and judges together; None takes all whose answers are known.
        question: which question people were asked, where they were asked several.
        output: a JSON file for the numbers.
        resampling: of the intervals.

    Raises:
        DataError: no votes of people, several questions, or nobody to compare them with.
    """
    if output is not None:
        require_free(output)
    where = ", ".join(stores)
    votes, comparisons, sources = _read(stores)
    votes = _to_one_question(votes, question, where)
    table = rater_table(votes, comparisons)
    if not table.are_people.any():
        raise DataError(f"{where}: no votes of people that choose between two answers; `exptilt label` gathers them")
    if len(table.raters) == 1:
        raise DataError(f"{where}: one person and no judge: nobody to compare with")
    if policy is not None:
        _require_known(policy, sources)
    found = judges_and_people(table, votes, epsilon, resampling) | {
        "policies": by_policy(table, sources, policy, resampling)
    }
    print_agreement(found)
    if output is not None:
        write_whole(output, json.dumps(plain(found), indent=2) + "\n")
    return found


def _read(stores: Sequence[str]) -> tuple[list[Vote], dict[str, Comparison], Sources]:
    votes: dict[str, Vote] = {}
    comparisons: dict[str, Comparison] = {}
    sources: dict[str, Mapping[int, Sequence[str]]] = {}
    for where in stores:
        with VoteStore(where, create=False) as store:
            # Who settles a dispute has seen what others said, so that vote agrees with nobody by itself.
            votes |= {vote.nonce: vote for vote in store.votes() if vote.rater.identity != ADJUDICATOR}
            comparisons |= store.comparisons()
            sources |= store.sources()
    return list(votes.values()), comparisons, sources


def _to_one_question(votes: Sequence[Vote], question: str | None, where: str) -> list[Vote]:
    """People's answers to one question, with all votes of judges, whose question belongs to what they are."""
    asked = sorted({vote.question for vote in votes if vote.rater.kind == "person"})
    if question is None and len(asked) > 1:
        raise DataError(
            f"{where}: people were asked {len(asked)} questions ({', '.join(asked)}); name one with --question"
        )
    if question is not None and question not in asked:
        raise DataError(f"{where}: people were not asked {question!r}; they were asked {', '.join(asked) or 'nothing'}")
    return [vote for vote in votes if vote.rater.kind != "person" or question in (None, vote.question)]


def _require_known(policy: str, sources: Sources) -> None:
    known = sorted({name for one in sources.values() for names in one.values() for name in names})
    if policy not in known:
        shown = ", ".join(known[:8]) or "none"
        raise DataError(f"--policy {policy}: no answer is known to be of it; known are {shown}")
