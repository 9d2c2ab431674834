"""Rows with two completions, one preferred."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exptilt.data.formats import hh
from exptilt.data.formats.fields import content, need, number, section_of, text, turns, weight_of, with_system
from exptilt.data.problems import RowError
from exptilt.data.records import Message, Preference, Text, align

Row = Mapping[str, Any]
SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen_rating", "rejected_rating"),
    ("chosen-rating", "rejected-rating"),
    ("chosen_avg_rating", "rejected_avg_rating"),
)
"""Columns of the scores of the two sides, by the data sets that have them."""


def preference(row: Row, row_id: str) -> Preference:
    """`chosen`, `rejected` and most often `prompt`: text, turns, or turns that hold the prompt as well."""
    chosen, rejected = content(need(row, "chosen"), "chosen"), content(need(row, "rejected"), "rejected")
    given = row.get("prompt")
    prompt: Text | None = None if given is None else content(given, "prompt")
    if isinstance(chosen, str) or isinstance(rejected, str):
        return paired(row, row_id, "" if prompt is None else prompt, chosen, rejected)
    shared = shared_turns(chosen, rejected)
    if not shared:
        if prompt is None:
            raise RowError("no_shared_prompt", "chosen and rejected share no leading turn that ends with the user's")
        return paired(row, row_id, prompt, chosen, rejected)
    if prompt is not None and not _repeats(prompt, shared):
        raise RowError(
            "prompt_mismatch", "chosen and rejected begin with shared turns, but the prompt is not what these say"
        )
    return paired(row, row_id, shared, chosen[len(shared) :], rejected[len(shared) :])


def transcripts(row: Row, row_id: str) -> Preference:
    r"""`chosen` and `rejected` as whole `\n\nHuman: ... \n\nAssistant: ...` transcripts (HH-RLHF)."""
    chosen = hh.parse(text(need(row, "chosen"), "chosen"))
    rejected = hh.parse(text(need(row, "rejected"), "rejected"))
    shared = shared_turns(chosen, rejected)
    if not shared:
        raise RowError("no_shared_prompt", "chosen and rejected share no leading turn that ends with the human's")
    return paired(row, row_id, shared, chosen[len(shared) :], rejected[len(shared) :])


def sharegpt(row: Row, row_id: str) -> Preference:
    """The prompt's turns in `conversations` or `messages`, and one turn each in `chosen` and `rejected`."""
    column = "conversations" if "conversations" in row else "messages"
    prompt = turns(need(row, column), column)
    return paired(
        row, row_id, prompt, content(need(row, "chosen"), "chosen"), content(need(row, "rejected"), "rejected")
    )


def shared_turns(chosen: tuple[Message, ...], rejected: tuple[Message, ...]) -> tuple[Message, ...]:
    """The longest shared list of whole leading turns that ends with a user's or tool's turn.

    Never a prefix of characters: replies often begin with the same letters (444 of 2,312 rows in one HH-RLHF split).
    """
    count = 0
    for one, other in zip(chosen, rejected, strict=False):
        if one != other:
            break
        count += 1
    while count and chosen[count - 1]["role"] not in ("user", "tool"):
        count -= 1
    return chosen[:count]


def _repeats(prompt: Text, shared: tuple[Message, ...]) -> bool:
    if isinstance(prompt, str):
        return any(turn["role"] == "user" and turn["content"].strip() == prompt.strip() for turn in shared)
    return prompt == shared[: len(prompt)]


def paired(row: Row, row_id: str, prompt: Text, chosen: Text, rejected: Text) -> Preference:
    """A preference with the numbers of its row: `p_chosen`, `margin` or two scores, `weight`; and its system prompt."""
    prompt, (chosen, rejected) = align(with_system(row, prompt), (chosen, rejected))
    margin = _margin(row)
    p_chosen = number(row, "p_chosen", 0.0, 1.0)
    if p_chosen is None:
        p_chosen = 0.5 if margin == 0 else 1.0
    return Preference(
        id=row_id,
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        p_chosen=p_chosen,
        margin=margin,
        weight=weight_of(row),
        section=section_of(row),
    )


def _margin(row: Row) -> float | None:
    """The column `margin`, or the difference of the two scores; scores that are equal make the row a tie."""
    margin = number(row, "margin")
    if margin is not None:
        return margin
    for one, other in SCORES:
        high, low = number(row, one), number(row, other)
        if high is not None and low is not None:
            return high - low
    return None
