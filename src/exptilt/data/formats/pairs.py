"""Rows with two completions, one preferred."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from exptilt.data.formats import hh
from exptilt.data.formats.dialogues import divided, same_turns
from exptilt.data.formats.fields import content, need, number, section_of, text, turns, yes_or_no
from exptilt.data.formats.token_ids import ids_of_pair
from exptilt.data.problems import RowError
from exptilt.data.records import Message, Preference, Text, as_turns

Row = Mapping[str, Any]
SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("rating_chosen", "rating_rejected"),
    ("chosen_rating", "rejected_rating"),
    ("chosen-rating", "rejected-rating"),
    ("chosen_avg_rating", "rejected_avg_rating"),
    ("reward_chosen", "reward_rejected"),
    ("chosen_reward", "rejected_reward"),
)
"""Columns of the scores of the two sides, by the data sets that have them."""
DIALOGUES = ("conversations", "messages", "conversation", "trajectory", "context")
"""Columns in use for the turns that come before the two sides."""


def preference(row: Row, row_id: str) -> Preference:
    """`chosen`, `rejected` and most often `prompt`: text, turns, or turns that hold the prompt as well.

    `messages` beside them say it once more; they must be the prompt, or the prompt with the chosen side.
    """
    prompt_value = row.get("prompt")
    prompt = (
        ""
        if prompt_value is None and row.get("history")
        else None
        if prompt_value is None
        else content(prompt_value, "prompt")
    )
    pair = paired(
        row, row_id, prompt, content(need(row, "chosen"), "chosen"), content(need(row, "rejected"), "rejected")
    )
    if row.get("messages"):
        _check_said_again(pair, turns(row["messages"], "messages"))
    both_desirable = None if row.get("both_desirable") is None else yes_or_no(row, "both_desirable")
    return replace(pair, drawn_ids=ids_of_pair(row), both_desirable=both_desirable)


def transcripts(row: Row, row_id: str) -> Preference:
    r"""`chosen` and `rejected` as whole `\n\nHuman: ... \n\nAssistant: ...` transcripts (HH-RLHF)."""
    chosen, rejected = (hh.parse(text(need(row, name), name)) for name in ("chosen", "rejected"))
    return paired(row, row_id, None, chosen, rejected)


def sharegpt(row: Row, row_id: str) -> Preference:
    """The prompt's turns in `conversations`, `messages`, `conversation` or `trajectory`, and `chosen` and `rejected`.

    The turns may end with the chosen reply, which is then not part of the prompt.
    """
    column = next((name for name in DIALOGUES if row.get(name) is not None), DIALOGUES[0])
    dialogue = content(need(row, column), column)
    chosen, rejected = content(need(row, "chosen"), "chosen"), content(need(row, "rejected"), "rejected")
    if isinstance(dialogue, str) or dialogue[-1]["role"] != "assistant":
        return paired(row, row_id, dialogue, chosen, rejected)
    whole = as_turns(chosen, "assistant")
    for shared in range(min(len(whole), len(dialogue)), 0, -1):
        if same_turns(dialogue[-shared:], whole[-shared:]):
            ends = len(dialogue)
            while ends and dialogue[ends - 1]["role"] == "assistant":
                ends -= 1
            return paired(row, row_id, dialogue[:ends], dialogue, rejected)
    raise RowError("bad_roles", f"{column} ends with the assistant's turn, and it is not the chosen one")


def _check_said_again(pair: Preference, repeated: tuple[Message, ...]) -> None:
    prompt, chosen = as_turns(pair.prompt, "user"), as_turns(pair.chosen, "assistant")
    if not any(same_turns(repeated, turns_) for turns_ in (prompt, chosen, (*prompt, *chosen))):
        raise RowError("prompt_mismatch", "messages are neither the prompt nor the prompt with the chosen side")


def paired(row: Row, row_id: str, prompt: Text | None, chosen: Text, rejected: Text) -> Preference:
    """Make a preference with the numbers of its row: `p_chosen`, and `margin` or two scores."""
    prompt, (chosen, rejected) = divided(prompt, (chosen, rejected))
    scores = _scores(row)
    margin = number(row, "margin")
    if margin is None and scores is not None:
        margin = scores[0] - scores[1]
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
        scores=scores,
        section=section_of(row),
    )


def _scores(row: Row) -> tuple[float, float] | None:
    """The scores of the two sides; equal ones make a row without `margin` a tie."""
    for chosen_score, rejected_score in SCORES:
        high, low = number(row, chosen_score), number(row, rejected_score)
        if high is not None and low is not None:
            return high, low
    return None
