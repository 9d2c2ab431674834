"""Rows with one completion: to imitate, or rated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exptilt.data.adapters.fields import content, need, number, text, turns, yes_or_no
from exptilt.data.problems import RowError
from exptilt.data.records import Demonstration, Message, Rating, Text, align

Row = Mapping[str, Any]


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
    return Demonstration(id=row_id, prompt=prompt, completion=completion, weight=_weight(row))


def messages(row: Row, row_id: str) -> Demonstration:
    """`messages` or `conversations`; the prompt ends before the first reply, and every reply is imitated."""
    said = _conversation(row)
    first = next(position for position, turn in enumerate(said) if turn["role"] == "assistant")
    return Demonstration(id=row_id, prompt=said[:first], completion=said[first:], weight=_weight(row))


def plain_text(row: Row, row_id: str) -> Demonstration:
    """`text` alone: all of it is imitated."""
    return Demonstration(id=row_id, prompt="", completion=text(need(row, "text"), "text"), weight=_weight(row))


def _prompt_and_completion(row: Row) -> tuple[Text, Text]:
    prompt, completion = content(need(row, "prompt"), "prompt"), content(need(row, "completion"), "completion")
    prompt, (completion,) = align(prompt, (completion,))
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
        score=number(row, "score"),
        weight=_weight(row),
    )


def _weight(row: Row) -> float:
    weight = number(row, "weight", 0.0)
    return 1.0 if weight is None else weight
