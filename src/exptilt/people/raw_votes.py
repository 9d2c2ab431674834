"""Raw votes as rows: every vote with what was shown, in the order of the store; names are pseudonyms unless asked for.

{"comparison", "prompt", "answers" (as shown), "sources", "question", "rater", "kind", "outcome" | "ranking", "replicate",
 "probability", "strength", "note", "nonce", "supersedes", "created", "draw"}
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from exptilt.votes.showings import Showings
from exptilt.votes.vote_records import Rater
from exptilt.votes.vote_store import VoteStore


def raw_rows(store: VoteStore, *, names: bool = False) -> Iterator[dict[str, Any]]:
    """All votes, those that were taken back too (a later row names them in `supersedes`).

    Args:
        store: of votes.
        names: write people's names; by default `rater-1`, `rater-2`, ... in the order of their first votes, so that a
            later export calls everybody the same.
    """
    comparisons, sources = store.comparisons(), store.sources()
    showings = Showings(store)
    with store.exclusive() as connection:
        weights = showings.draw_weights(connection)
    aliases: dict[Rater, str] = {}
    for row in store.stored():
        vote = row.vote
        if vote.rater.kind == "person" and vote.rater not in aliases:
            aliases[vote.rater] = f"rater-{len(aliases) + 1}"
        comparison = comparisons[vote.comparison]
        written = sources.get(vote.comparison, {})
        strategy, weight = weights.get(vote.comparison, ("random", 1.0))
        values = {
            "comparison": vote.comparison,
            "prompt": comparison.prompt if isinstance(comparison.prompt, str) else [dict(t) for t in comparison.prompt],
            "answers": [comparison.answers[at] for at in vote.order],
            "sources": [written.get(at, []) for at in vote.order] if written else None,
            "question": vote.question,
            "rater": vote.rater.name if names or vote.rater.kind == "judge" else aliases[vote.rater],
            "kind": vote.rater.kind,
            "identity": vote.rater.identity or None,
            "outcome": vote.outcome,
            "ranking": vote.ranking,
            "replicate": vote.replicate,
            "probability": vote.probability,
            "strength": vote.strength or None,
            "note": vote.note or None,
            "nonce": vote.nonce,
            "supersedes": vote.supersedes,
            "created": row.created,
            "draw": None if strategy == "random" else {"strategy": strategy, "weight": weight},
        }
        yield {name: value for name, value in values.items() if value is not None}


def as_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    r"""Rows as CSV; a cell that a spreadsheet would take for a formula begins with an apostrophe.

    Example:
        >>> as_csv([{"note": "=1+1", "answers": ["a", "b"]}]).splitlines()[1]
        '\'=1+1,"[""a"", ""b""]"'
    """
    listed = list(rows)
    columns = list(dict.fromkeys(name for row in listed for name in row))
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(columns)
    writer.writerows([_cell(row.get(name)) for name in columns] for row in listed)
    return file.getvalue()


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, int | float):
        return value
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = text.encode("utf-8", "replace").decode()
    return (
        f"'{text}"
        if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"))
        else text
    )
