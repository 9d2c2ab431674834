"""A private PostgreSQL server, started once, with an empty database for each test that asks."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

_NUMBERS = count()


def _programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    onpath = shutil.which("initdb")
    return found[-1].parent if found else Path(onpath).parent if onpath else None


def _user() -> str | None:
    """Whom the server runs as: it refuses root."""
    if os.geteuid():
        return None
    return next((name for name in ("postgres", "nobody") if name in {one.pw_name for one in pwd.getpwall()}), None)


def _run(user: str | None, *command: object) -> None:
    prefix = ["runuser", "-u", user, "--"] if user else []
    done = subprocess.run([*prefix, *map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a server without a database's name; everything of it is in one folder that is removed again."""
    pytest.importorskip("pg8000", reason="the extra `postgres` is not installed")
    programs = _programs()
    if programs is None:
        pytest.skip("no PostgreSQL here: initdb was not found")
    user = _user()
    if user is None and not os.geteuid():
        pytest.skip("PostgreSQL refuses root, and there is no user to run it as")
    folder = Path(tempfile.mkdtemp(prefix="exptilt-postgres-"))
    if user:
        shutil.chown(folder, user)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    try:
        password = folder / "password"
        password.write_text("secret-word")
        if user:
            shutil.chown(password, user)
        _run(
            user,
            programs / "initdb",
            "-D",
            folder / "data",
            "-U",
            "tester",
            "-A",
            "scram-sha-256",
            f"--pwfile={password}",
            "-N",
        )
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off -c max_connections=100"
        _run(user, programs / "pg_ctl", "-D", folder / "data", "-l", folder / "log", "-o", options, "-w", "start")
        yield f"postgresql://tester:secret-word@127.0.0.1:{port}"
        _run(user, programs / "pg_ctl", "-D", folder / "data", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres(postgres_server: str) -> str:
    """The URL of a new and empty database."""
    from sqlalchemy import create_engine

    name = f"votes_{next(_NUMBERS)}"
    engine = create_engine(
        postgres_server.replace("postgresql:", "postgresql+pg8000:") + "/postgres", isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return f"{postgres_server}/{name}"


@pytest.fixture(params=["sqlite", "postgres"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store that is not there yet, of either kind."""
    return str(tmp_path / "votes.db") if request.param == "sqlite" else request.getfixturevalue("postgres")
