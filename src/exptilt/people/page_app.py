"""The application: the routes of raters and of the owner, behind one guard. It holds one store and is one process."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, FastAPI
from starlette.staticfiles import StaticFiles

from exptilt.people.page_frame import HERE
from exptilt.people.page_guard import PageGuard, Person


def create_app(people: Sequence[Person], hosts: Sequence[str], routers: Sequence[APIRouter]) -> FastAPI:
    """Build the application.

    Args:
        people: everybody with a link.
        hosts: names and addresses under which it may be asked.
        routers: its pages; each handler finds who asks in `request.state.person`.
    """
    app = FastAPI(title="exptilt", docs_url=None, redoc_url=None, openapi_url=None)
    for router in routers:
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=HERE / "static"))
    app.add_middleware(PageGuard, people=people, hosts=hosts)
    return app
