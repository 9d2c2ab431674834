"""The application: the routes of raters and of the owner, behind one guard. It holds one store and is one process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from markupsafe import escape
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from exptilt.errors import ExptiltError
from exptilt.people.page_frame import HERE
from exptilt.people.page_guard import PageGuard, Person, plain_page


def _refused(_request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)  # a path that does not fit is a path that is not there
    return plain_page(status, "Nothing here", "There is no such page.", more='<p><a href="/">Go on</a></p>')


def _unusable(_request: Request, error: Exception) -> Response:
    text = f"Every vote that was acknowledged is stored. {escape(str(error))}"
    return plain_page(503, "The store cannot be used", text, more='<p><a href="/">Try again</a></p>')


_HANDLERS: dict[int | type[Exception], Any] = {
    HTTPException: _refused,
    RequestValidationError: _refused,
    ExptiltError: _unusable,
}
"""Pages for people instead of JSON."""


def create_app(people: Sequence[Person], hosts: Sequence[str], routers: Sequence[APIRouter]) -> FastAPI:
    """Build the application.

    Args:
        people: everybody with a link.
        hosts: names and addresses under which it may be asked.
        routers: its pages; each handler finds who asks in `request.state.person`.
    """
    app = FastAPI(title="exptilt", docs_url=None, redoc_url=None, openapi_url=None, exception_handlers=_HANDLERS)
    for router in routers:
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=HERE / "static"))
    app.add_middleware(PageGuard, people=people, hosts=hosts)
    return app
