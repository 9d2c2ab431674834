"""`votes.db`: the one store of what people and judges said; rows are added and never changed.

SQLite with a write-ahead log and `synchronous=FULL`, so that a vote is on the disk when `add` returns, or PostgreSQL by
URL, where several machines vote at once.
"""

from __future__ import annotations

import getpass
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, NoSuchModuleError, SQLAlchemyError

from exptilt.errors import DataError, DiskError
from exptilt.preferences import Comparison
from exptilt.votes.network_disk import network_file_system
from exptilt.votes.stored_columns import (
    call_columns,
    comparison_columns,
    read_comparison,
    read_vote,
    storable,
    vote_columns,
)
from exptilt.votes.vote_records import Call, Vote, VoteRow, canonical_order
from exptilt.votes.vote_tables import CALLS, COMPARISONS, ORIGINS, VERSION, VERSIONS, VOTES, make_tables

_WAIT = 30
"""Seconds that a process waits for another one's write."""
_WRITERS = 0x6578_7074_696C_74
"""PostgreSQL's advisory lock of those who write a store: they take turns, as SQLite's do, so none waits for another in a circle."""


class VoteStore:
    """Opens a store, makes it where there is none, and adds and reads rows.

    Args:
        where: a path, or a `postgresql://` URL.
        create: whether a store that is not there is made; otherwise it is refused.

    Raises:
        DataError: no store there, one of another kind or of a newer version.
        DiskError: it cannot be opened or written, or lies on a network disk.

    Example:
        >>> import tempfile
        >>> from exptilt.votes.vote_records import Rater
        >>> question = Comparison("2 + 2?", ("5", "4"))
        >>> with tempfile.TemporaryDirectory() as folder, VoteStore(Path(folder) / "votes.db") as store:
        ...     vote = Vote(comparison=question.id, rater=Rater("person", "anna"), order=(0, 1), outcome="first", nonce="n")
        ...     store.add(question, vote), store.add(question, vote), [vote.first_share for vote in store.votes()]
        (True, False, [1.0])
    """

    def __init__(self, where: str | Path, *, create: bool = True) -> None:
        self.name = _without_password(str(where))
        url = _url(where, create)
        self._file = None if url.database is None or not url.drivername.startswith("sqlite") else Path(url.database)
        self._turn = threading.Lock()
        try:
            self._engine = sql.create_engine(url, connect_args={"timeout": _WAIT}, pool_pre_ping=not self._file)
        except (NoSuchModuleError, ImportError) as error:
            raise DataError(f"{self.name}: PostgreSQL needs a driver; pip install 'exptilt[postgres]'") from error
        if self._file:
            sql.event.listen(self._engine, "connect", _prepare_sqlite)
            sql.event.listen(self._engine, "begin", _begin)
        else:
            sql.event.listen(self._engine, "begin", _take_turns)
        try:
            self._require_version(create)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> VoteStore:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    def add(self, comparison: Comparison, vote: Vote, calls: Sequence[Call] = (), sources: Sequence[str] = ()) -> bool:
        """Store a vote with its comparison and the calls that were paid for it, all or nothing; on disk when it returns.

        Args:
            comparison: what was voted on.
            vote: about the comparison.
            calls: the requests behind a judge's vote.
            sources: who wrote the answers, in the comparison's order.

        Returns:
            Whether the vote is new; one whose nonce is there already is not stored again, nor are its calls.

        Raises:
            DiskError: the disk refuses, and nothing is stored.
        """
        with self._transaction() as connection:
            return self.add_within(connection, comparison, vote, calls, sources)

    @contextmanager
    def exclusive(self) -> Iterator[sql.Connection]:
        """A transaction that no other writer of any process overlaps; all or nothing."""
        with self._turn, self._transaction() as connection:  # threads queue here, where waiting is fair
            yield connection

    def add_all(self, rows: Iterable[tuple[Comparison, Vote, Sequence[str]]]) -> int:
        """Store many votes in one transaction, for imports; returns how many are new."""
        with self._transaction() as connection:
            return sum(self.add_within(connection, comparison, vote, (), sources) for comparison, vote, sources in rows)

    def add_with_calls(self, rows: Iterable[tuple[Comparison, Vote, Sequence[Call], Sequence[str]]]) -> int:
        """As `add_all`, for votes with the calls behind them, which are stored where the vote is new."""
        with self._transaction() as connection:
            return sum(self.add_within(connection, *row) for row in rows)

    def add_sources(self, rows: Iterable[tuple[Comparison, Sequence[str]]]) -> None:
        """Store who wrote the answers of comparisons, which raters never see."""
        with self._transaction() as connection:
            for comparison, sources in rows:
                self._add_comparison(connection, comparison, sources)

    def add_call(self, call: Call) -> None:
        """Store a call that gave no vote, so that what was paid stays known."""
        with self._transaction() as connection:
            connection.execute(CALLS.insert().values(call_columns(call)))

    def votes(self, *, superseded: bool = False, identity: str | None = None) -> list[Vote]:
        """All votes in the order they came; those that another vote replaced only where `superseded`.

        Args:
            superseded: whether those are given, too.
            identity: of the one judge whose votes are asked for.
        """
        query = sql.select(VOTES).order_by(VOTES.c.id)
        if identity is not None:
            query = query.where(VOTES.c.identity == identity)
        with self._transaction(writes=False) as connection:
            rows = connection.execute(query).mappings().all()
        votes = [read_vote(row) for row in rows]
        if superseded:
            return votes
        replaced = {vote.supersedes for vote in votes if vote.supersedes is not None}
        return [vote for vote in votes if vote.nonce not in replaced]

    def stored(
        self, after: int = 0, connection: sql.Connection | None = None, comparison: str | None = None
    ) -> list[VoteRow]:
        """All rows of votes behind a row, superseded ones too, with their number and time.

        Args:
            after: the number of a row; 0 is before all.
            connection: of `exclusive`, to read within it.
            comparison: only votes on this one.
        """
        query = sql.select(VOTES).where(VOTES.c.id > after).order_by(VOTES.c.id)
        if comparison is not None:
            query = query.where(VOTES.c.comparison == comparison)
        if connection is not None:
            rows = connection.execute(query).mappings().all()
        else:
            with self._transaction(writes=False) as own:
                rows = own.execute(query).mappings().all()
        return [VoteRow(row["id"], row["created"], read_vote(row)) for row in rows]

    def comparison(self, connection: sql.Connection, key: str) -> Comparison | None:
        """One comparison by its id, within a transaction of `exclusive`; None where it is not there."""
        row = connection.execute(sql.select(COMPARISONS).where(COMPARISONS.c.id == key)).mappings().first()
        return None if row is None else read_comparison(row)

    def comparisons(self) -> dict[str, Comparison]:
        """All comparisons by id; the answers are sorted, as votes count them."""
        with self._transaction(writes=False) as connection:
            rows = connection.execute(sql.select(COMPARISONS)).mappings().all()
        return {row["id"]: read_comparison(row) for row in rows}

    def sources(self) -> dict[str, dict[int, list[str]]]:
        """Who wrote the answers, by comparison and position in the sorted answers."""
        found: dict[str, dict[int, list[str]]] = {}
        with self._transaction(writes=False) as connection:
            for row in connection.execute(sql.select(ORIGINS)).mappings():
                found.setdefault(row["comparison"], {}).setdefault(row["position"], []).append(row["source"])
        return found

    def calls(self, *, usable: bool = False) -> Iterator[Call]:
        """All calls in the order they were made, or those alone that may be served again."""
        query = sql.select(CALLS).order_by(CALLS.c.id)
        with self._transaction(writes=False) as connection:
            rows = connection.execute(query.where(CALLS.c.usable) if usable else query).mappings().all()
        for row in rows:
            yield Call(**{name: row[name] for name in Call.__slots__})

    def _require_version(self, create: bool) -> None:
        with self._transaction(writes=False) as connection:
            if self._is_store(connection):
                return
        if not create:
            raise DataError(f"{self.name}: there is no store of votes in this database")
        with self._transaction() as connection:
            if not self._is_store(connection):  # another process may have made it in between
                make_tables(connection)

    def _is_store(self, connection: sql.Connection) -> bool:
        names = set(sql.inspect(connection).get_table_names())
        if VERSIONS.name not in names:
            if names:
                raise DataError(
                    f"{self.name}: this is a database of something else, without a store of votes; name another"
                )
            return False
        version = connection.execute(sql.select(VERSIONS.c.version)).scalar_one()
        if version > VERSION:
            raise DataError(
                f"{self.name}: this store has version {version} and this exptilt knows up to {VERSION}; update exptilt"
            )
        return True

    def _ignoring(self, table: sql.Table) -> Any:
        insert = postgresql.insert if self._engine.dialect.name == "postgresql" else sqlite.insert
        return insert(table).on_conflict_do_nothing()

    def add_within(
        self,
        connection: sql.Connection,
        comparison: Comparison,
        vote: Vote,
        calls: Sequence[Call] = (),
        sources: Sequence[str] = (),
    ) -> bool:
        """As `add`, in a transaction of `exclusive`; on disk when that ends."""
        if vote.comparison != comparison.id:
            raise ValueError("the vote is about another comparison")
        self._add_comparison(connection, comparison, sources)
        if not connection.execute(self._ignoring(VOTES).values(vote_columns(vote))).rowcount:
            return False
        for call in calls:
            connection.execute(CALLS.insert().values(call_columns(call)))
        return True

    def _add_comparison(self, connection: sql.Connection, comparison: Comparison, sources: Sequence[str]) -> None:
        connection.execute(self._ignoring(COMPARISONS).values(comparison_columns(comparison)))
        for position, source in zip(canonical_order(comparison), sources, strict=bool(sources)):
            origin = {"comparison": comparison.id, "position": position, "source": storable(source)}
            connection.execute(self._ignoring(ORIGINS).values(origin))

    @contextmanager
    def _transaction(self, *, writes: bool = True) -> Iterator[sql.Connection]:
        try:
            with self._connect().execution_options(writes=writes) as connection, connection.begin():
                yield connection
        # sqlite3's where a connection is prepared, the system's where the network breaks under pg8000.
        except (SQLAlchemyError, sqlite3.Error, OSError) as error:
            raise self._refusal(error) from error

    def _connect(self) -> sql.Connection:
        try:
            return self._engine.connect()
        except (
            OSError
        ):  # the server ended a connection that was kept, which pg8000 does not always say in its own errors
            self._engine.dispose()
            return self._engine.connect()

    def _refusal(self, error: Exception) -> DataError | DiskError:
        said = _words_of(error.orig if isinstance(error, DBAPIError) else error)
        if "not a database" in said:
            return DataError(
                f"{self.name}: is not a store of votes (SQLite says: {said}); `exptilt votes FILE` makes one of other tools' files"
            )
        advice = {
            "lock": f"another process has been writing for {_WAIT} s; stop it or wait",
            "full": "free some space; every vote before this one is stored",
            "No space left": "free some space; every vote before this one is stored",
            "readonly": "change its permissions, or name another file",
            "read-only": "it may not be written; use another user or another server",
            "permission denied": "give this user the right to make and fill tables there",
            "unable to open": "the folder is missing or may not be written",
            "authentication failed": "check user and password of the URL",
            "does not exist": "make it first (createdb), or check its name in the URL",
            "connection": "is the server running, and are host and port right?",
        }
        hint = next((text for word, text in advice.items() if word in said), "check the file or the server")
        return DiskError(f"{self.name}: the store of votes cannot be used ({said}); {hint}")


def _url(where: str | Path, create: bool) -> sql.URL:
    if "://" in str(where):
        url = sql.make_url(str(where))
        if url.get_backend_name() != "postgresql":
            raise DataError(f"{_without_password(str(where))}: a store is a file, or a postgresql:// URL")
        if url.username is None:  # as psql does
            url = url.set(username=os.environ.get("PGUSER") or getpass.getuser())
        return url.set(drivername="postgresql+pg8000") if url.drivername == "postgresql" else url
    path = Path(where)
    if not create and not path.exists():
        raise DataError(f"{path}: there is no such store of votes")
    if path.is_dir():
        raise DataError(f"{path}: is a folder; name a file, for example {path / 'votes.db'}")
    kind = network_file_system(path)
    if kind is not None:
        raise DiskError(
            f"{path}: lies on a network disk ({kind}), where SQLite loses votes; name a local file or a postgresql:// URL"
        )
    return sql.URL.create("sqlite", database=str(path))


def _without_password(where: str) -> str:
    return sql.make_url(where).render_as_string(hide_password=True) if "://" in where else where


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions are begun below, at once as writers
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin(connection: sql.Connection) -> None:
    """A writer takes its lock at once: one that reads first and writes later could be refused in between."""
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN")


def _take_turns(connection: sql.Connection) -> None:
    if connection.get_execution_options().get("writes"):
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_WAIT}s'")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITERS})")


def _words_of(error: object) -> str:
    """What a driver says; pg8000 gives a mapping whose M is the message."""
    said = getattr(error, "args", None)
    fields = said[0] if isinstance(said, tuple) and said and isinstance(said[0], Mapping) else None
    text = str(error if fields is None else fields.get("M", error))
    return (text.splitlines() or [type(error).__name__])[0][:150]
