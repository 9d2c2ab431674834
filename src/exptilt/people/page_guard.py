"""Who may ask for a page: every request passes here before anything else sees it.

Host        a foreign name is refused (400), so that no other site can reach the page by a name of its own
token       a link with a token sets a cookie (HttpOnly, SameSite=Strict) and leaves the address; without either: 401
origin      a POST that does not come from the page itself is refused (403)
owner       results are refused to everybody else (403)
size        a body of more than `MOST_BODY` bytes is refused (413)
headers     a content security policy that allows nothing remote and nothing inline
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from exptilt.disk import refusals

MOST_BODY = 256 * 1024
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
_OPEN = "/static/"
"""Paths below need no token; there is nothing of anybody in them."""
OWNERS = "/results"
"""Paths below are the owner's."""


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with a link."""

    name: str
    token: str
    rates: bool = True
    """Whether the person is given work."""
    owns: bool = False
    """Whether the person sees results and settles disputes."""


def secret_of(store: str) -> bytes:
    """The secret that links to a store are made of; made at the first start, readable by its user alone.

    It lies in the cache, not beside the store, so that a store can be given away; without it links are new.
    """
    root = Path(os.environ.get("EXPTILT_CACHE") or Path.home() / ".cache" / "exptilt") / "label"
    where = store if "://" in store else str(Path(store).resolve())
    path = root / f"{sha256(where.encode()).hexdigest()[:32]}.key"
    with refusals(path):
        root.mkdir(parents=True, exist_ok=True)
        try:
            with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
                file.write(secrets.token_bytes(32))
        except FileExistsError:
            pass
        return path.read_bytes()


def people_of(names: Sequence[str], owner: str, secret: bytes) -> tuple[Person, ...]:
    """Everybody with a link: the raters, and the owner, who rates where nobody else is named.

    Example:
        >>> [(person.name, person.rates, person.owns) for person in people_of(["anna"], "me", b"s")]
        [('anna', True, False), ('me', False, True)]
    """

    def token(role: str, name: str) -> str:
        return hmac.new(secret, f"{role}\x1f{name}".encode(), sha256).hexdigest()[:32]

    if not names:
        return (Person(owner, token("owner", owner), rates=True, owns=True),)
    raters = [Person(name.strip(), token("rater", name.strip())) for name in names]
    return (*raters, Person(owner, token("owner", owner), rates=False, owns=True))


class PageGuard:
    """Middleware: lets through what a person of the page asks for.

    Args:
        app: gets the person as `scope["state"]["person"]`.
        people: everybody with a link.
        hosts: names and addresses under which the page may be asked, without port.
    """

    def __init__(self, app: ASGIApp, people: Sequence[Person], hosts: Sequence[str]) -> None:
        self._app = app
        self._people = tuple(people)
        self._hosts = {host.strip("[]").casefold() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(scope, headers)
        if refusal is None:
            body = await _body(receive)
            if body is None:
                refusal = plain_page(
                    413, "Too much", "That was more than a page may send. Go back and shorten your note."
                )
            else:
                await self._app(scope, _replay(body, receive), _with_headers(send))
                return
        await refusal(scope, receive, _with_headers(send))

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> Response | None:
        if _host(headers.get("host", "")) not in self._hosts:
            return plain_page(
                400, "Wrong address", "This page is not known under that name. Open the link that exptilt printed."
            )
        if scope["path"].startswith(_OPEN):
            return None
        cookie = f"exptilt-{_port(headers.get('host', ''))}"
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token")
        if given and scope["method"] == "GET":
            person = self._person(given[0])
            return _no_link() if person is None else _welcome(person, cookie)
        person = self._person(_cookie(headers.get("cookie", ""), cookie))
        if person is None:
            return _no_link()
        if scope["method"] not in ("GET", "HEAD") and not _is_own(headers):
            return plain_page(
                403, "Not from this page", "That came from another site and was refused. Nothing was stored."
            )
        if scope["path"].startswith(OWNERS) and not person.owns:
            return plain_page(
                403, "For the owner", "Results are shown to the owner alone.", more='<p><a href="/">Go on</a></p>'
            )
        scope.setdefault("state", {})["person"] = person
        return None

    def _person(self, token: str) -> Person | None:
        found = None
        for person in self._people:  # all of them, so that time tells nothing
            if hmac.compare_digest(person.token.encode(), token.encode("utf-8", "replace")):
                found = person
        return found


def _is_own(headers: dict[str, str]) -> bool:
    """Whether a request comes from the page itself: by Sec-Fetch-Site, or by Origin where a browser lacks that."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    return urlsplit(headers.get("origin", "")).netloc.casefold() == headers.get("host", "").casefold() != ""


def _host(header: str) -> str:
    try:
        return (urlsplit(f"//{header}").hostname or "").casefold()
    except ValueError:
        return ""


def _port(header: str) -> str:
    """Cookies are shared by all ports of a host; so each port has a cookie of its own name."""
    try:
        return str(urlsplit(f"//{header}").port or 80)
    except ValueError:
        return "80"


def _cookie(header: str, name: str) -> str:
    try:
        morsel = SimpleCookie(header).get(name)
    except CookieError:
        return ""
    return morsel.value if morsel else ""


async def _body(receive: Receive) -> bytes | None:
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if len(body) > MOST_BODY:
            return None
        if not message.get("more_body"):
            return body


def _replay(body: bytes, receive: Receive) -> Receive:
    """What was read, once more; then what still comes."""
    waiting = [True]

    async def again() -> Message:
        if waiting:
            waiting.clear()
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return again


def _with_headers(send: Send) -> Send:
    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            present = {name.lower() for name, _ in message["headers"]}
            more = _HEADERS if b"cache-control" in present else {**_HEADERS, "cache-control": "no-store"}
            message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in more.items())]
        await send(message)

    return guarded


def _welcome(person: Person, cookie: str) -> Response:
    """Set the cookie and go on. A redirect would not do: after a click on another site it comes without a strict cookie."""
    to = "/" if person.rates else "/results"
    page = plain_page(
        200, "Welcome", "One moment.", f'<meta http-equiv="refresh" content="0;url={to}">', f'<a href="{to}">Begin</a>'
    )
    page.set_cookie(cookie, person.token, httponly=True, samesite="strict", path="/", max_age=30 * 86400)
    return page


def _no_link() -> Response:
    return plain_page(
        401, "This page needs your link", "Open the link that exptilt printed, or ask the person who sent it to you."
    )


def plain_page(status: int, title: str, text: str, head: str = "", more: str = "") -> HTMLResponse:
    """A plain page of our own words."""
    return HTMLResponse(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>{head}'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="stylesheet" href="/static/page.css">'
        f'<link rel="icon" href="/static/icon.svg"></head><body class="plain"><main><h1>{title}</h1><p>{text}</p>'
        f"{more}</main></body></html>",
        status,
    )
