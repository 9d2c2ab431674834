"""The routes of the owner: results, disputes and their settlement, the export."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response

from exptilt.errors import DiskError
from exptilt.people.desk import Desk
from exptilt.people.draw_order import order_shown
from exptilt.people.image_items import pictures_of
from exptilt.people.items import Item
from exptilt.people.label_page import QUESTIONS, fields_of, marked_of
from exptilt.people.page_frame import PageFrame, answers_of, turns_of
from exptilt.people.page_guard import OWNERS, Person
from exptilt.people.raw_votes import raw_rows
from exptilt.votes.vote_records import ADJUDICATOR

if TYPE_CHECKING:
    from exptilt.people.standings import Dispute, Standings, StandingsBoard

MOST_DISPUTES = 50
"""Disputes that the page lists; the rest is counted."""


def owner_routes(desk: Desk, frame: PageFrame) -> APIRouter:
    """Routes for the owner, all under `/results`, which the guard opens to nobody else."""
    routes = APIRouter(prefix=OWNERS)
    boards: list[StandingsBoard] = []

    def standings_of(question: str) -> Standings:
        if not boards:
            from exptilt.people.standings import StandingsBoard  # scipy: not before somebody looks

            boards.append(StandingsBoard(desk))
        return boards[0].of(question)

    @routes.get("")
    def results(request: Request, question: str = "", said: str = "") -> Response:
        return _results(
            desk, frame, standings_of(_asked(desk, question)), request.state.person, "Settled." if said else ""
        )

    @routes.get("/dispute/{comparison}")
    def dispute(request: Request, comparison: str, question: str = "") -> Response:
        person: Person = request.state.person
        item, asked = desk.item(comparison), _asked(desk, question)
        if item is None:
            return frame.message(person, 404, "No such comparison", "It is not on this page; go on from the results.")
        about = next((one for one in standings_of(asked).disputes if one.item is item), None)
        return frame.page("dispute.html", person, **_dispute_page(desk, item, asked, about))

    @routes.post("/settle")
    async def settle(request: Request) -> Response:
        return await run_in_threadpool(_settle, desk, frame, request.state.person, await fields_of(request))

    @routes.get("/votes.jsonl")
    def export() -> Response:
        lines = "".join(json.dumps(row, ensure_ascii=True) + "\n" for row in raw_rows(desk.store))
        headers = {"content-disposition": 'attachment; filename="votes.jsonl"'}
        return Response(lines, media_type="application/x-ndjson", headers=headers)

    return routes


def _asked(desk: Desk, question: str) -> str:
    return question if question in desk.rules.questions else desk.rules.questions[0]


def _results(desk: Desk, frame: PageFrame, found: Standings, person: Person, said: str) -> Response:
    shown = found.disputes[:MOST_DISPUTES]
    return frame.page(
        "results.html",
        person,
        standings=found,
        questions=[(one, QUESTIONS.get(one, one)) for one in desk.rules.questions],
        title=QUESTIONS.get(found.question, found.question),
        wanted=desk.rules.wanted,
        strategy=desk.rules.next,
        disputes=[(dispute, _preview(dispute.item), _says(dispute, desk)) for dispute in shown],
        said=said,
    )


def _settle(desk: Desk, frame: PageFrame, person: Person, fields: Mapping[str, str]) -> Response:
    marked = marked_of(fields)
    if isinstance(marked, str):
        return frame.message(person, 400, "Not stored", marked)
    item, question = desk.item(fields.get("comparison", "")), fields.get("question", "")
    try:
        stored = item is not None and desk.adjudicate(person.name, item.id, question, _order(desk, item), marked)
    except DiskError as error:
        return frame.message(person, 503, "The disk refuses", f"Your vote is NOT stored. {error}")
    if not stored:
        return frame.message(person, 409, "Not stored", "That comparison is not on this page.")
    return RedirectResponse(f"/results?{urlencode({'question': question, 'said': 'settled'})}", 303)


def _order(desk: Desk, item: Item) -> tuple[int, ...]:
    return order_shown(item, desk.items.index(item), ADJUDICATOR, desk.rules.seed)


def _dispute_page(desk: Desk, item: Item, question: str, about: Dispute | None) -> dict[str, Any]:
    order = _order(desk, item)
    in_order = sorted(item.comparison.answers)
    pictures = pictures_of(item.comparison) if item.folder else [""] * len(in_order)
    return {
        "question": QUESTIONS.get(question, question),
        "asked": question,
        "comparison": item.id,
        "turns": turns_of(item.comparison.prompt, as_raw=False),
        "answers": answers_of(item, [in_order[at] for at in order], pictures, view=""),
        "images": f"/image/{item.id}/",
        "base": 0 if len(pictures) > len(in_order) else None,
        "letters": "ABCDEFG",
        "says": [(name, "ABCDEFG"[order.index(best)] if best >= 0 else "neither") for name, best in about.says]
        if about
        else [],
        "is_settled": about is not None and about.settled,
    }


def _preview(item: Item) -> str:
    prompt = item.comparison.prompt
    if isinstance(prompt, str):
        text = prompt
    else:
        text = " ".join(str(part.get("text", "")) for turn in prompt for part in _text_parts(turn.get("content")))
    return " ".join(text.split())[:120] or "(no prompt)"


def _text_parts(content: Any) -> Sequence[Mapping[str, Any]]:
    if isinstance(content, str):
        return [{"text": content}]
    return [part for part in content or () if isinstance(part, Mapping)]


def _says(dispute: Dispute, desk: Desk) -> str:
    order = _order(desk, dispute.item)
    letters = [f"{name} {'ABCDEFG'[order.index(best)] if best >= 0 else 'neither'}" for name, best in dispute.says]
    return ", ".join(letters)
