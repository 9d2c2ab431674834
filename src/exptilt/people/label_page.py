"""The routes of a rater: the next comparison, a vote, an undo, the pictures of an item."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlencode

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response

from exptilt.errors import DiskError
from exptilt.people.desk import Assignment, Desk, Marked, Taken, ranking_of
from exptilt.people.image_items import difference, picture, pictures_of, shows_masks
from exptilt.people.items import Item
from exptilt.people.page_frame import PageFrame, answers_of, turns_of
from exptilt.people.page_guard import Person

MOST_NOTE = 10_000
QUESTIONS = {"better": "Which answer is better?"}
_RANKED = {"better": "Rank the answers, the best first"}
_VIEWS = ("raw", "diff")
_OUTCOMES = ("first", "second", "tie", "both_bad", "skip")
_SAID = {
    "stored": "Stored.",
    "again": "You had voted on that already; it counts once.",
    "undone": "Taken back; here it is again.",
    "nothing": "There is no vote to take back.",
}


def label_routes(desk: Desk, frame: PageFrame) -> APIRouter:
    """Routes for raters."""
    routes = APIRouter()

    @routes.get("/")
    def next_comparison(request: Request, view: str = "", said: str = "") -> Response:
        return _next(desk, frame, request.state.person, view if view in _VIEWS else "", _SAID.get(said, ""))

    @routes.post("/vote")
    async def vote(request: Request) -> Response:
        return await run_in_threadpool(_vote, desk, frame, request.state.person, await fields_of(request))

    @routes.post("/undo")
    def undo(request: Request) -> Response:
        return _undo(desk, frame, request.state.person)

    @routes.get("/image/{comparison}/{number}")
    def image(comparison: str, number: int) -> Response:
        return _image(desk.item(comparison), number)

    @routes.get("/differing/{comparison}")
    def differing(comparison: str) -> Response:
        return _differing(desk.item(comparison))

    return routes


async def fields_of(request: Request) -> dict[str, str]:
    """The fields of a form; of one that comes twice, the last."""
    sent = (await request.body()).decode("utf-8", "replace")
    return {name: values[-1] for name, values in parse_qs(sent, keep_blank_values=True).items()}


def _next(desk: Desk, frame: PageFrame, person: Person, view: str, said: str) -> Response:
    if not person.rates:
        return RedirectResponse("/results", 303)
    try:
        work, progress = desk.next(person.name)
    except DiskError as error:
        return frame.message(person, 503, "The disk refuses", f"Every vote so far is stored. ({error})")
    if work is None:
        return frame.page("done.html", person, progress=progress, said=said)
    return frame.page("label.html", person, progress=progress, said=said, **_shown(work, view))


def _undo(desk: Desk, frame: PageFrame, person: Person) -> Response:
    try:
        done = desk.undo(person.name)
    except DiskError as error:
        return frame.message(person, 503, "The disk refuses", f"Your vote still stands. ({error})")
    return RedirectResponse(f"/?said={'undone' if done else 'nothing'}", 303)


def _image(item: Item | None, number: int) -> Response:
    names = [] if item is None or item.folder is None else pictures_of(item.comparison)
    if item is None or item.folder is None or not 0 <= number < len(names) or not names[number]:
        return Response("there is no such picture", 404)
    first_answer = len(names) - len(item.comparison.answers)
    shown = picture(item.folder, names[number], as_mask=number >= first_answer > 0)
    if shown is None:
        return Response("this picture cannot be read", 404)
    return Response(shown[0], media_type=shown[1], headers={"cache-control": "private, max-age=3600"})


def _differing(item: Item | None) -> Response:
    outline = None if item is None or item.folder is None else difference(item.folder, item.comparison)
    if outline is None:
        return Response("there are no two masks", 404)
    return Response(outline, media_type="image/png", headers={"cache-control": "private, max-age=3600"})


def _shown(work: Assignment, view: str) -> dict[str, Any]:
    """What the template needs to show a comparison."""
    pictures = pictures_of(work.item.comparison) if work.item.folder else [""] * len(work.answers)
    turns = turns_of(work.item.comparison.prompt, as_raw=view == "raw")
    question = work.showing.question
    in_prompt = len(pictures) - len(work.answers)
    are_masks = work.item.folder is not None and shows_masks(work.item.comparison)
    return {
        "question": _asked(question, len(work.answers), are_masks=are_masks),
        "differing": f"/differing/{work.item.id}" if are_masks and len(work.answers) == 2 else "",
        "nonce": work.showing.nonce,
        "turns": turns,
        "answers": answers_of(work.item, work.answers, pictures, view=view),
        "letters": "ABCDEFG",
        "images": f"/image/{work.item.id}/",
        "base": 0 if in_prompt else None,
        "view": view,
    }


def _asked(question: str, count: int, *, are_masks: bool) -> str:
    """The question in words; a question of the owner's own stands as it is."""
    words = (QUESTIONS if count == 2 else _RANKED).get(question, question)
    return words.replace("answer", "mask") if are_masks and words != question else words


def _vote(desk: Desk, frame: PageFrame, person: Person, fields: Mapping[str, str]) -> Response:
    nonce, view = fields.get("nonce", ""), fields.get("view", "")
    marked = marked_of(fields)
    if isinstance(marked, str):
        return frame.message(person, 400, "Not stored", marked)
    try:
        taken: Taken = desk.take(person.name, nonce, marked)
    except DiskError as error:
        text = f"Your vote is NOT stored yet. {error}"
        return frame.message(person, 503, "The disk refuses", text, dict(fields))
    if taken == "unknown":
        return frame.message(
            person, 409, "Not stored", "That page was not shown to you, or is of another store. Go on from here."
        )
    query = {"said": taken} | ({"view": view} if view in _VIEWS else {})
    return RedirectResponse(f"/?{urlencode(query)}", 303)


def marked_of(fields: Mapping[str, str]) -> Marked | str:
    """What the form says, or what is wrong with it."""
    note = fields.get("note", "").replace("\x00", "").strip()  # which PostgreSQL does not store
    if len(note) > MOST_NOTE:
        return f"A note has at most {MOST_NOTE:,} characters; yours has {len(note):,}. Go back and shorten it."
    outcome, strength = fields.get("outcome", ""), fields.get("strength", "")
    if outcome == "rank":
        places = [fields.get(f"rank_{at}", "") for at in range(7) if f"rank_{at}" in fields]
        asked = int(fields.get("answers", "0")) if fields.get("answers", "").isdigit() else 0
        if len(places) != asked or not all(place.isdigit() for place in places):
            return "Every answer needs a rank. Go back and give the rest of them one; equal ranks are ties."
        return Marked(ranking=ranking_of([int(place) for place in places]), note=note)
    if outcome not in _OUTCOMES:
        return "The page sent no vote. Go back and press one of the buttons."
    return Marked(outcome=outcome, strength=strength if strength in ("slightly", "clearly") else "", note=note)  # type: ignore[arg-type]
