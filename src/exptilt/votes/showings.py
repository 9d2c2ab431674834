"""What is shown to whom right now: leases, so that no two people are given the same work, and the nonce of each page.

A showing is a comparison with a question in the order in which one person sees it. It is stored before the page is sent,
so that a page carries nothing but its nonce, and a vote from yesterday's page is a vote on what that page showed. Only
the end of a lease changes; votes themselves are in the append-only tables.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sql

from exptilt.votes.vote_store import VoteStore

_TABLES = sql.MetaData()
_SHOWN = sql.Table(
    "showing",
    _TABLES,
    sql.Column("nonce", sql.String(64), primary_key=True),
    sql.Column("person", sql.String(200), nullable=False),
    sql.Column("comparison", sql.String(64), nullable=False),
    sql.Column("question", sql.Text, nullable=False),
    sql.Column("shown", sql.String(100), nullable=False),  # JSON: positions in the sorted answers
    sql.Column("replicate", sql.Integer, nullable=False),
    sql.Column("attempt", sql.Integer, nullable=False),
    sql.Column("expires", sql.Float, nullable=False),
    sql.UniqueConstraint("person", "comparison", "question", "replicate", "attempt"),
    sql.Index("showing_by_expiry", "expires"),
)
_DRAWN = sql.Table(
    "inclusion",
    _TABLES,
    sql.Column("comparison", sql.String(64), primary_key=True),
    sql.Column("strategy", sql.String(20), nullable=False),
    sql.Column("weight", sql.Float, nullable=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Showing:
    """A comparison and a question, as one person sees it."""

    nonce: str = ""
    """Of the vote that will be about it; empty until it is stored."""
    person: str
    comparison: str
    question: str
    order: tuple[int, ...]
    """Positions in the sorted answers."""
    replicate: int = 0
    """1 for a silent repeat."""
    attempt: int = 0
    """How many votes of the person on the same were taken back before."""


class Showings:
    """The showings of a store; every method runs in a transaction of `VoteStore.exclusive`."""

    def __init__(self, store: VoteStore) -> None:
        with store.exclusive() as connection:
            _TABLES.create_all(connection)

    def lease(self, connection: sql.Connection, showing: Showing, expires: float) -> Showing:
        """Store a showing, or prolong the one that is the same; two tabs of a person share a nonce.

        Args:
            connection: of `exclusive`.
            showing: without a nonce.
            expires: seconds since the epoch.
        """
        same = sql.and_(*(_SHOWN.c[name] == value for name, value in _key(showing).items()))
        row = connection.execute(sql.select(_SHOWN).where(same)).mappings().first()
        if row is not None:
            connection.execute(_SHOWN.update().where(same).values(expires=expires))
            return _showing(row)
        nonce = secrets.token_urlsafe(24)
        values = {**_key(showing), "nonce": nonce, "shown": json.dumps(showing.order), "expires": expires}
        connection.execute(_SHOWN.insert().values(values))
        return _showing(values)

    def end(self, connection: sql.Connection, nonce: str) -> None:
        """End a lease; the showing stays known."""
        connection.execute(_SHOWN.update().where(_SHOWN.c.nonce == nonce).values(expires=0.0))

    def of_nonce(self, connection: sql.Connection, nonce: str) -> Showing | None:
        """The showing that a page was about, however old."""
        row = connection.execute(sql.select(_SHOWN).where(_SHOWN.c.nonce == nonce)).mappings().first()
        return None if row is None else _showing(row)

    def leased(self, connection: sql.Connection, now: float) -> list[Showing]:
        """All showings whose lease has not expired, the latest to expire last."""
        query = sql.select(_SHOWN).where(_SHOWN.c.expires > now).order_by(_SHOWN.c.expires)
        return [_showing(row) for row in connection.execute(query).mappings()]

    def draw_weights(self, connection: sql.Connection) -> dict[str, tuple[str, float]]:
        """Strategy and weight by which comparisons were put in order, by comparison."""
        rows = connection.execute(sql.select(_DRAWN)).mappings()
        return {row["comparison"]: (row["strategy"], row["weight"]) for row in rows}

    def add_draw_weights(self, connection: sql.Connection, rows: Iterable[tuple[str, str, float]]) -> None:
        """Store comparison, strategy and weight; they decide an order that must not change while people vote."""
        values = [{"comparison": one, "strategy": how, "weight": weight} for one, how, weight in rows]
        if values:
            connection.execute(_DRAWN.insert(), values)


def _key(showing: Showing) -> dict[str, Any]:
    return {name: getattr(showing, name) for name in ("person", "comparison", "question", "replicate", "attempt")}


def _showing(row: Mapping[Any, Any]) -> Showing:
    names = ("nonce", "person", "comparison", "question", "replicate", "attempt")
    return Showing(order=tuple(json.loads(row["shown"])), **{name: row[name] for name in names})
