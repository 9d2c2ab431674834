"""The routes of the arena: the conversation, a message, a vote, a new conversation."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response

from exptilt.errors import DiskError, ModelError
from exptilt.people.arena import Arena
from exptilt.people.items import Item
from exptilt.people.label_page import QUESTIONS, fields_of, marked_of
from exptilt.people.page_frame import PageFrame, answers_of, turns_of
from exptilt.people.page_guard import Person

MOST_MESSAGE = 100_000
_VIEWS = ("raw", "diff")
_SAID = {
    "stored": "Stored. The conversation goes on with the answer below.",
    "again": "You had voted on that already; it counts once.",
    "same": "Both gave the same answer, so there is nothing to vote on.",
    "old": "That message came from an earlier page and was not sent again.",
    "new": "A new conversation.",
}


def arena_routes(arena: Arena, frame: PageFrame) -> APIRouter:
    """Routes for everybody who talks."""
    routes = APIRouter()

    @routes.get("/")
    def conversation(request: Request, view: str = "", said: str = "") -> Response:
        return _shown(arena, frame, request.state.person, view if view in _VIEWS else "", _SAID.get(said, ""))

    @routes.post("/say")
    async def say(request: Request) -> Response:
        return await run_in_threadpool(_say, arena, frame, request.state.person, await fields_of(request))

    @routes.post("/vote")
    async def vote(request: Request) -> Response:
        return await run_in_threadpool(_vote, arena, frame, request.state.person, await fields_of(request))

    @routes.post("/new")
    def new(request: Request) -> Response:
        arena.begin_anew(request.state.person.name)
        return RedirectResponse("/?said=new", 303)

    return routes


def _shown(arena: Arena, frame: PageFrame, person: Person, view: str, said: str) -> Response:
    talk = arena.talk(person.name)
    exchange = talk.waiting
    blocks = []
    if exchange is not None:
        blocks = answers_of(Item(comparison=exchange.comparison), exchange.answers, ["", ""], view=view)
    return frame.page(
        "arena.html",
        person,
        said=said,
        view=view,
        question=QUESTIONS["better"],
        turns=turns_of(talk.conversation.turns, as_raw=view == "raw"),
        spoken=len(talk.conversation),
        votes=talk.votes,
        answers=blocks,
        nonce="" if exchange is None else exchange.nonce,
        most=MOST_MESSAGE,
    )


def _say(arena: Arena, frame: PageFrame, person: Person, fields: Mapping[str, str]) -> Response:
    text, turn = fields.get("text", "").replace("\r\n", "\n"), fields.get("turn", "")
    if not text.strip() or len(text) > MOST_MESSAGE:
        return frame.message(
            person, 400, "Not sent", f"A message has 1 to {MOST_MESSAGE:,} characters. Go back and change it."
        )
    try:
        came = arena.ask(person.name, int(turn) if turn.isdecimal() else -1, text)
    except ModelError as error:
        return frame.message(
            person,
            503,
            "No answer",
            f"Nothing was said, and every vote is stored. {error}. Send it again, or begin a new one.",
        )
    return RedirectResponse("/" if came == "asked" else f"/?said={came}", 303)


def _vote(arena: Arena, frame: PageFrame, person: Person, fields: Mapping[str, str]) -> Response:
    marked = marked_of(fields)
    if isinstance(marked, str) or marked.outcome is None:
        says = marked if isinstance(marked, str) else "Two answers are compared and not ranked."
        return frame.message(person, 400, "Not stored", says)
    try:
        taken = arena.vote(
            person.name, fields.get("nonce", ""), marked.outcome, strength=marked.strength, note=marked.note
        )
    except DiskError as error:
        return frame.message(person, 503, "The disk refuses", f"Your vote is NOT stored yet. {error}", dict(fields))
    if taken == "unknown":
        return frame.message(
            person, 409, "Not stored", "These answers belong to a conversation that is over. Go on from here."
        )
    return RedirectResponse(f"/?{urlencode({'said': taken})}", 303)
