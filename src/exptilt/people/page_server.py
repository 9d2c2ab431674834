"""The process of a page: its socket, its links, its end."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from contextlib import suppress

import uvicorn
from fastapi import FastAPI

from exptilt.errors import ConfigError
from exptilt.people.page_guard import Person

FIRST_PORT = 8765
_TRIED = 20


def bound_socket(host: str, port: int | None) -> socket.socket:
    """A socket that listens.

    Args:
        host: a name or address of this machine.
        port: None takes the first free one from 8765, 0 any.

    Raises:
        ConfigError: the port is in use, or the address is none of this machine.
    """
    for candidate in range(FIRST_PORT, FIRST_PORT + _TRIED) if port is None else (port,):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            return socket.create_server((host, candidate), family=family, backlog=512)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and port is None:
                continue
            if error.errno == errno.EADDRINUSE:
                raise ConfigError(
                    f"port {candidate} is in use; name another with --port, or --port 0 for any"
                ) from None
            raise ConfigError(
                f"{host}:{candidate} cannot be opened ({error.strerror}); name another --host or --port"
            ) from None
    raise ConfigError(f"ports {FIRST_PORT} to {FIRST_PORT + _TRIED - 1} are all in use; name another with --port")


def names_of(host: str, allowed: Sequence[str] = ()) -> list[str]:
    """Names and addresses under which browsers may ask for a page on a host."""
    names = ["localhost", "127.0.0.1", "::1", *allowed]
    if host not in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        return [*names, host]
    with suppress(OSError):
        own = socket.gethostname()
        names += [own, socket.getfqdn(), *(str(info[4][0]) for info in socket.getaddrinfo(own, None))]
    return names


def links_of(people: Sequence[Person], host: str, port: int) -> list[tuple[Person, str]]:
    """Everybody's link."""
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        shown = socket.gethostname()
    else:
        shown = "127.0.0.1" if host == "localhost" else host
    where = f"[{shown}]" if ":" in shown else shown
    return [(person, f"http://{where}:{port}/?token={person.token}") for person in people]


def serve_page(app: FastAPI, listening: socket.socket) -> None:
    """Serve until somebody stops it; requests that are under way are finished."""
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=5, ws="none"
    )
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])
