"""The tables of the store, their version, and the triggers that make them append-only."""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

VERSION = 1
"""Raised whenever a table changes; a store of a newer version is refused, not guessed at."""

METADATA = MetaData()

VERSIONS = Table("exptilt_votes", METADATA, Column("version", Integer, nullable=False))

COMPARISONS = Table(
    "comparison",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("prompt", Text, nullable=False),  # JSON: text or messages
    Column("answers", Text, nullable=False),  # JSON: the answers, sorted
    Column("created", String(32), nullable=False),
)

ORIGINS = Table(
    "origin",
    METADATA,
    Column("comparison", String(64), ForeignKey("comparison.id"), nullable=False),
    Column("position", Integer, nullable=False),  # in the sorted answers
    Column("source", Text, nullable=False),  # the policy that wrote it; raters never see it
    UniqueConstraint("comparison", "position", "source"),
)

CALLS = Table(
    "call",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("key", String(64), nullable=False),
    Column("request", Text, nullable=False),
    Column("reply", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("prompt_tokens", Integer),
    Column("completion_tokens", Integer),
    Column("cost", Float),
    Column("seconds", Float),
    Column("finish_reason", Text, nullable=False),
    Column("usable", Boolean, nullable=False),
    Column("created", String(32), nullable=False),
    Index("call_by_key", "key"),
)

VOTES = Table(
    "vote",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("comparison", String(64), ForeignKey("comparison.id"), nullable=False),
    Column("rater_kind", String(10), nullable=False),
    Column("rater", Text, nullable=False),
    Column("identity", Text, nullable=False),
    Column("question", Text, nullable=False),
    Column("shown", Text, nullable=False),  # JSON: positions in the sorted answers
    Column("replicate", Integer, nullable=False),
    Column("outcome", String(10)),
    Column("ranking", Text),
    Column("probability", Float),
    Column("strength", Text, nullable=False),
    Column("note", Text, nullable=False),
    Column("supersedes", Text),
    Column("nonce", Text, nullable=False, unique=True),
    Column("created", String(32), nullable=False),
    Index("vote_by_comparison", "comparison"),
)

_APPENDED = (COMPARISONS, ORIGINS, CALLS, VOTES)


def make_tables(connection: Connection) -> None:
    """Make all tables of an empty store, with triggers that refuse to change or delete a row."""
    METADATA.create_all(connection)
    connection.execute(VERSIONS.insert().values(version=VERSION))
    for statement in _append_only(connection.dialect.name):
        connection.execute(text(statement))


def _append_only(dialect: str) -> list[str]:
    if dialect == "sqlite":
        return [
            f"CREATE TRIGGER {table.name}_no_{act.lower()} BEFORE {act} ON {table.name} "
            f"BEGIN SELECT RAISE(ABORT, 'votes are append-only'); END"
            for table in _APPENDED
            for act in ("UPDATE", "DELETE")
        ]
    function = (
        "CREATE FUNCTION exptilt_append_only() RETURNS trigger AS $$ "
        "BEGIN RAISE EXCEPTION 'votes are append-only'; END $$ LANGUAGE plpgsql"
    )
    return [function] + [
        f"CREATE TRIGGER {table.name}_append_only_{unit.lower()} BEFORE {acts} ON {table.name} "
        f"FOR EACH {unit} EXECUTE FUNCTION exptilt_append_only()"
        for table in _APPENDED
        for unit, acts in (("ROW", "UPDATE OR DELETE"), ("STATEMENT", "TRUNCATE"))
    ]
