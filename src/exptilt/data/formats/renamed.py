"""Pairs under other column names: the published forms of UltraFeedback, Orca, Alpaca, StackExchange and vendors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from exptilt.data.formats.fields import content, items, need, number, prompt_of, text, turns, under
from exptilt.data.formats.pairs import paired
from exptilt.data.problems import RowError
from exptilt.data.records import Message, Preference, Text

Row = Mapping[str, Any]


def argilla(row: Row, row_id: str) -> Preference:
    """Argilla's binarized UltraFeedback: `instruction`, `chosen_response`, `rejected_response`, `..._avg_rating`."""
    return _pair(row, row_id, prompt_of(row), "chosen_response", "rejected_response")


def orca(row: Row, row_id: str) -> Preference:
    """Intel Orca pairs and distilabel's: `question`, `query` or `input`, and `chosen`, `rejected`.

    distilabel's `status` says where its judge saw a tie; a null `rating` without one is a failed judgement.
    """
    pair = _pair(row, row_id, prompt_of(row), "chosen", "rejected")
    if row.get("status") == "tie":
        return replace(pair, p_chosen=0.5)
    rating = row.get("rating")
    if isinstance(rating, str) or not hasattr(rating, "__len__"):
        if "rating" in row and rating is None:
            raise RowError("unjudged", "column 'rating' is null: the judgement failed")
        return pair
    scores = [number({"rating": value}, "rating") for value in items(rating, "rating", 2)]
    known = [score for score in scores if score is not None]
    return replace(pair, margin=max(known) - min(known)) if known else pair


def alpaca_pair(row: Row, row_id: str) -> Preference:
    """LLaMA-Factory: `instruction`, `input`, and `chosen`, `rejected`, or `output` as a list of the two."""
    if row.get("chosen") is None and isinstance(row.get("output"), list):
        good, bad = items(row["output"], "output", 2)[:2]
        row = {**row, "chosen": good, "rejected": bad}
    return _pair(row, row_id, prompt_of(row), "chosen", "rejected")


def stackexchange(row: Row, row_id: str) -> Preference:
    """StackExchange pairs: `question`, `response_j` (the better one) and `response_k`."""
    return _pair(row, row_id, text(need(row, "question"), "question"), "response_j", "response_k")


def openai(row: Row, row_id: str) -> Preference:
    """OpenAI's preference rows: `input.messages`, `input.tools`, `preferred_output`, `non_preferred_output`.

    Each output is exactly one assistant turn, and the input ends with a user's or tool's.
    """
    asked = under(need(row, "input"), "input")
    prompt = turns(asked.get("messages"), "input.messages")
    if prompt[-1]["role"] not in ("user", "tool"):
        raise RowError("bad_roles", f"input.messages must end with the user's or a tool's, got {prompt[-1]['role']}")
    older = "preferred_output" not in row
    sides = (
        ("preferred_completion", "non_preferred_completion") if older else ("preferred_output", "non_preferred_output")
    )
    chosen, rejected = (_one_reply(row, name) for name in sides)
    pair = paired(row, row_id, prompt, chosen, rejected)
    tools = asked.get("tools")
    return replace(pair, template_args={"tools": list(items(tools, "input.tools"))}) if tools else pair


def rejected_response(row: Row, row_id: str) -> Preference:
    """ms-swift and its like: a good reply, and the bad one in `rejected_response` or a dialogue in `rejected_messages`.

    The good one is the end of `messages`, or `response` under a `query`.
    """
    column = "rejected_messages" if row.get("rejected_messages") is not None else "rejected_response"
    rejected = content(need(row, column), column)
    if row.get("messages") is None:
        return paired(row, row_id, prompt_of(row), content(need(row, "response"), "response"), rejected)
    dialogue = turns(row["messages"], "messages")
    ends = len(dialogue)
    while ends and dialogue[ends - 1]["role"] == "assistant":
        ends -= 1
    if not 0 < ends < len(dialogue):
        raise RowError("bad_roles", "messages must end with the assistant's reply to something")
    whole = not isinstance(rejected, str) and rejected[0]["role"] != "assistant"
    return paired(row, row_id, None if whole else dialogue[:ends], dialogue if whole else dialogue[ends:], rejected)


def _one_reply(row: Row, column: str) -> tuple[Message, ...]:
    reply = content(need(row, column), column)
    if isinstance(reply, str) or len(reply) != 1 or reply[0]["role"] != "assistant":
        raise RowError("bad_roles", f"{column} must be exactly one turn, the assistant's")
    return reply


def _pair(row: Row, row_id: str, prompt: Text, chosen: str, rejected: str) -> Preference:
    return paired(row, row_id, prompt, content(need(row, chosen), chosen), content(need(row, rejected), rejected))
