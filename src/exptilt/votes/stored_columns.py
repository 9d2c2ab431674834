"""The store's records as columns of its tables, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from exptilt.data.records import Text
from exptilt.preferences import Comparison
from exptilt.votes.vote_records import Call, Rater, Vote


def storable(text: str) -> str:
    r"""A text without what no database holds: half a character (a lone surrogate), and NUL, which PostgreSQL refuses.

    Example:
        >>> storable("a\x00b\ud83d")
        'a␀b?'
    """
    return text.encode("utf-8", "replace").decode().replace("\x00", "\N{SYMBOL FOR NULL}")


def comparison_columns(comparison: Comparison) -> dict[str, Any]:
    """A comparison with its answers sorted; JSON escapes what a database could not hold."""
    prompt = comparison.prompt if isinstance(comparison.prompt, str) else [dict(turn) for turn in comparison.prompt]
    answers = sorted(comparison.answers)
    return _stored({"id": comparison.id, "prompt": json.dumps(prompt), "answers": json.dumps(answers)})


def read_comparison(row: Mapping[Any, Any]) -> Comparison:
    """A comparison with sorted answers, as votes count them."""
    prompt: Text = json.loads(row["prompt"])
    return Comparison(prompt if isinstance(prompt, str) else tuple(prompt), tuple(json.loads(row["answers"])))


def call_columns(call: Call) -> dict[str, Any]:
    """A paid request and what came back."""
    return _stored({name: getattr(call, name) for name in Call.__slots__})


def vote_columns(vote: Vote) -> dict[str, Any]:
    """A vote with its rater."""
    return _stored(
        {
            "comparison": vote.comparison,
            "rater_kind": vote.rater.kind,
            "rater": vote.rater.name,
            "identity": vote.rater.identity,
            "question": vote.question,
            "shown": json.dumps(vote.order),
            "replicate": vote.replicate,
            "outcome": vote.outcome,
            "ranking": None if vote.ranking is None else json.dumps(vote.ranking),
            "probability": vote.probability,
            "strength": vote.strength,
            "note": vote.note,
            "supersedes": vote.supersedes,
            "nonce": vote.nonce,
        }
    )


def _stored(columns: Mapping[str, Any]) -> dict[str, Any]:
    texts = {name: storable(value) for name, value in columns.items() if isinstance(value, str)}
    return {**columns, **texts, "created": datetime.now(UTC).isoformat(timespec="milliseconds")}


def read_vote(row: Mapping[Any, Any]) -> Vote:
    """A vote as it was added."""
    return Vote(
        comparison=row["comparison"],
        rater=Rater(row["rater_kind"], row["rater"], row["identity"]),
        order=tuple(json.loads(row["shown"])),
        outcome=row["outcome"],
        ranking=None if row["ranking"] is None else tuple(json.loads(row["ranking"])),
        question=row["question"],
        replicate=row["replicate"],
        probability=row["probability"],
        strength=row["strength"],
        note=row["note"],
        supersedes=row["supersedes"],
        nonce=row["nonce"],
    )
