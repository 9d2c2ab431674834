"""What all pages share: templates, and a conversation as blocks that a template lays out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.responses import HTMLResponse

from exptilt.data.records import Message, Text
from exptilt.data.turns import calls_of, reasoning_of
from exptilt.people.items import Item
from exptilt.people.page_guard import Person
from exptilt.people.rendering import differences, markdown, raw

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of a turn or of an answer: HTML, or the number of a picture of the item."""

    html: Markup = Markup("")  # noqa: RUF009 - immutable
    picture: int | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a prompt."""

    role: str
    """Empty for a prompt that is text."""
    blocks: tuple[Block, ...]


class PageFrame:
    """Renders templates for people.

    Args:
        guide: guidelines as Markdown; empty where there are none.
    """

    def __init__(self, guide: str = "") -> None:
        self.guide = markdown(guide) if guide.strip() else Markup("")
        self._templates = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters["percent"] = lambda value: "" if value is None else f"{100 * value:.0f} %"

        self._templates.filters["decimal"] = lambda value: f"{value:.2f}".replace("-", "\u2212")

    def page(self, template: str, person: Person, status: int = 200, **context: Any) -> HTMLResponse:
        """A page for a person."""
        content = self._templates.get_template(template).render(person=person, guide=self.guide, **context)
        return HTMLResponse(content.encode("utf-8", "replace"), status)

    def message(
        self, person: Person, status: int, title: str, text: str, again: dict[str, str] | None = None
    ) -> HTMLResponse:
        """A page that says one thing.

        Args:
            person: who reads it.
            status: of HTTP.
            title: what happened.
            text: what to do.
            again: fields of a vote that was not stored, to send once more.
        """
        return self.page("message.html", person, status, title=title, text=text, again=again or {})


def turns_of(prompt: Text, *, as_raw: bool) -> list[Turn]:
    """A prompt as turns; pictures are numbered in the order they stand."""
    if isinstance(prompt, str):
        return [Turn("", _text(prompt, as_raw))]
    turns, pictures = [], 0
    for message in prompt:
        blocks: list[Block] = []
        for part in _parts(message):
            if isinstance(part, str):
                blocks += _text(part, as_raw)
            else:
                blocks.append(Block(picture=pictures))
                pictures += 1
        turns.append(Turn(str(message.get("role", "")), tuple(blocks)))
    return turns


def answers_of(item: Item, answers: Sequence[str], pictures: Sequence[str], *, view: str) -> list[tuple[Block, ...]]:
    """Answers in the order shown.

    Args:
        item: that they belong to.
        answers: in the order shown.
        pictures: of the item, as `pictures_of` gives them.
        view: "raw", "diff" or "".
    """
    in_order = sorted(item.comparison.answers)
    first_picture = len(pictures) - len(in_order)
    if view == "diff" and len(answers) == 2 and not any(pictures[first_picture:]):
        marked = differences(*answers)
        if marked is not None:
            return [(Block(marked[0]),), (Block(marked[1]),)]
    blocks = []
    for answer in answers:
        number = first_picture + in_order.index(answer)
        is_picture = item.folder is not None and pictures[number]
        blocks.append((Block(picture=number),) if is_picture else _text(answer, view != ""))
    return blocks


def _text(text: str, as_raw: bool) -> tuple[Block, ...]:
    return (Block(raw(text) if as_raw else markdown(text)),) if text else ()


def _parts(message: Message) -> list[str | None]:
    """Texts of a turn, and None where a picture stands."""
    content = message.get("content")
    parts: list[str | None] = []
    if reasoning := reasoning_of(message):
        parts.append(reasoning)
    for part in [content] if isinstance(content, str) else content or ():
        if isinstance(part, str):
            parts.append(part)
        elif part.get("type") == "image" and "image" in part:
            parts.append(None)
        else:
            parts.append(str(part.get("text") or ""))
    return [*parts, *(f"`{call['name']}({call['arguments']})`" for call in calls_of(message))]
