"""Rows with one completion: to imitate, or rated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exptilt.data.formats.fields import (
    content,
    instruction,
    items,
    need,
    number,
    text,
    turns,
    weight_of,
    with_system,
    yes_or_no,
)
from exptilt.data.problems import RowError
from exptilt.data.records import Demonstration, Message, Rating, Text, align

Row = Mapping[str, Any]
SCORES = ("score", "rating", "average_rating")
"""Columns that say how good a completion is, on the source's own scale."""


def rating(row: Row, row_id: str) -> Rating:
    """`prompt`, `completion` and `label`."""
    prompt, completion = _prompt_and_completion(row)
    return _rated(row, row_id, prompt, completion, "label")


def rated_messages(row: Row, row_id: str) -> Rating:
    """`messages` (or `conversations`) and `label` (or `kto_tag`); the label is about the last reply."""
    said = _conversation(row)
    count = len(said)
    while count and said[count - 1]["role"] == "assistant":
        count -= 1
    return _rated(row, row_id, said[:count], said[count:], "label" if "label" in row else "kto_tag")


def demonstration(row: Row, row_id: str) -> Demonstration:
    """`prompt` and `completion`."""
    prompt, completion = _prompt_and_completion(row)
    return Demonstration(id=row_id, prompt=prompt, completion=completion, weight=weight_of(row))


def messages(row: Row, row_id: str) -> Demonstration:
    """`messages` or `conversations`; the prompt ends before the first reply, and every reply is imitated."""
    said = _conversation(row)
    first = next(position for position, turn in enumerate(said) if turn["role"] == "assistant")
    return Demonstration(id=row_id, prompt=said[:first], completion=said[first:], weight=weight_of(row))


def plain_text(row: Row, row_id: str) -> Demonstration:
    """`text` alone: all of it is imitated."""
    return Demonstration(id=row_id, prompt="", completion=text(need(row, "text"), "text"), weight=weight_of(row))


def rated_text(row: Row, row_id: str) -> Rating:
    """`text` and `label` (IMDb): 1 desirable, 0 not; -1, a text nobody rated, is no rating."""
    if number(row, "label") == -1:
        raise RowError("unjudged", "label is -1: nobody rated this text")
    return _rated(row, row_id, "", text(need(row, "text"), "text"), "label")


def stepwise(row: Row, row_id: str) -> Rating:
    """`prompt`, `completions` (steps of one solution) and `labels`: desirable if every step is right.

    The steps are joined by line ends; the score is the share of steps before the first wrong one.
    """
    steps = [text(step, f"completions[{at}]") for at, step in enumerate(items(need(row, "completions"), "completions"))]
    labels = items(need(row, "labels"), "labels")
    if len(labels) != len(steps):
        raise RowError("wrong_type", f"labels must be a list with one label for each of the {len(steps)} steps")
    right = [yes_or_no({"labels": label}, "labels") for label in labels]
    num_right = right.index(False) if False in right else len(right)
    prompt, (completion,) = align(content(need(row, "prompt"), "prompt"), ("\n".join(steps),))
    return Rating(
        id=row_id,
        prompt=prompt,
        completion=completion,
        desirable=all(right),
        score=num_right / len(right),
        weight=weight_of(row),
    )


def alpaca(row: Row, row_id: str) -> Demonstration:
    """`instruction`, `input` and `output` (Alpaca)."""
    said = text(need(row, "output"), "output")
    prompt, (completion,) = align(instruction(row), (said,))
    return Demonstration(id=row_id, prompt=prompt, completion=completion, weight=weight_of(row))


def question(row: Row, row_id: str) -> Demonstration:
    """`question` and `answer` (GSM8K)."""
    prompt, completion = (text(need(row, name), name) for name in ("question", "answer"))
    asked, (replied,) = align(with_system(row, prompt), (completion,))
    return Demonstration(id=row_id, prompt=asked, completion=replied, weight=weight_of(row))


def prompt_only(row: Row, row_id: str) -> Demonstration:
    """`prompt` alone: nothing to train on, but something to sample from; the completion is empty."""
    prompt = with_system(row, content(need(row, "prompt"), "prompt"))
    asked, (nothing,) = align(prompt, ("",))
    return Demonstration(id=row_id, prompt=asked, completion=nothing, weight=weight_of(row))


def _prompt_and_completion(row: Row) -> tuple[Text, Text]:
    prompt, completion = content(need(row, "prompt"), "prompt"), content(need(row, "completion"), "completion")
    prompt, (completion,) = align(with_system(row, prompt), (completion,))
    return prompt, completion


def _conversation(row: Row) -> tuple[Message, ...]:
    column = "messages" if row.get("messages") is not None else "conversations"
    said = turns(need(row, column), column)
    if said[-1]["role"] != "assistant":
        raise RowError(
            "bad_roles", f"the last turn of {column} is the {said[-1]['role']}'s, so there is no reply to learn"
        )
    return said


def _rated(row: Row, row_id: str, prompt: Text, completion: Text, label: str) -> Rating:
    return Rating(
        id=row_id,
        prompt=prompt,
        completion=completion,
        desirable=yes_or_no(row, label),
        score=next((score for column in SCORES if (score := number(row, column)) is not None), None),
        weight=weight_of(row),
    )
