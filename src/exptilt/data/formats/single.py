"""Rows with one completion, which is imitated or rated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from exptilt.data.formats.dialogues import divided, same_turns
from exptilt.data.formats.fields import (
    PROMPTS,
    as_number,
    completion_of,
    content,
    items,
    need,
    number,
    prompt_of,
    text,
    turns,
    yes_or_no,
)
from exptilt.data.formats.token_ids import ids_of_one
from exptilt.data.problems import RowError
from exptilt.data.records import Demonstration, Message, Prompt, Rating, Text, as_turns
from exptilt.data.step_scores import aggregated

Row = Mapping[str, Any]
SCORES = ("score", "rating", "average_rating")
"""Columns that say how good a completion is, on the source's own scale."""


CONVERSATIONS = ("messages", "conversations", "conversation")
"""Columns in use for all turns of a dialogue."""
LABELS = ("label", "kto_tag", "is_safe", "desirable", "is_desirable", "thumbs_up")
"""Columns in use for whether a completion is a good one."""


def rating(row: Row, row_id: str) -> Rating:
    """`prompt`, `completion` and `label`, or other names in use for them (KTO of Axolotl, LLaMA-Factory, ms-swift)."""
    has_prompt = any(row.get(name) is not None for name in (*PROMPTS, "input"))
    prompt, completion = _divided(prompt_of(row) if has_prompt else None, completion_of(row))
    return replace(_rated(row, row_id, prompt, completion), drawn_ids=ids_of_one(row))


def rated_messages(row: Row, row_id: str) -> Rating:
    """`messages` (or `conversations`) and `label` (or `kto_tag`); the label is about the last reply."""
    dialogue = _conversation(row)
    count = len(dialogue)
    while count and dialogue[count - 1]["role"] == "assistant":
        count -= 1
    return _rated(row, row_id, dialogue[:count], dialogue[count:])


def demonstration(row: Row, row_id: str) -> Demonstration:
    """A prompt and one completion, under the names in use for them: `prompt` and `completion`, `question` and so on."""
    prompt, completion = _divided(prompt_of(row), completion_of(row))
    return Demonstration(id=row_id, prompt=prompt, completion=completion, drawn_ids=ids_of_one(row))


def messages(row: Row, row_id: str) -> Demonstration | Prompt:
    """`messages` or `conversations`; the prompt ends before the first reply, and every reply is imitated.

    A `prompt` beside them must be what a user says in them. Turns that end with the user's are a prompt alone.
    """
    column, dialogue = _turns_of(row)
    if dialogue[-1]["role"] in ("user", "tool"):
        return Prompt(id=row_id, prompt=dialogue, answer=_answer_of(row))
    _require_reply(column, dialogue)
    first = next(position for position, turn in enumerate(dialogue) if turn["role"] == "assistant")
    return Demonstration(id=row_id, prompt=dialogue[:first], completion=dialogue[first:])


def plain_text(row: Row, row_id: str) -> Demonstration:
    """`text` alone: all of it is imitated."""
    return Demonstration(id=row_id, prompt="", completion=text(need(row, "text"), "text"))


def rated_text(row: Row, row_id: str) -> Rating:
    """`text` and `label` (IMDb): 1 desirable, 0 not; -1, a text nobody rated, is no rating."""
    if number(row, "label") == -1:
        raise RowError("unjudged", "label is -1: nobody rated this text")
    return _rated(row, row_id, "", text(need(row, "text"), "text"))


STEP_RULE = "steps rule"
"""Where a reader says how the labels of steps become one score (`data.steps`)."""


def stepwise(row: Row, row_id: str) -> Rating:
    """`prompt`, `completions` (steps of one solution) and `labels`, yes and no or numbers in [0, 1]; steps are joined by line ends.

    The score is the share of steps before the first wrong one, desirable where all are right; or what `data.steps` says: the
    least label, their product, their mean, or that of the last step, desirable above 1/2.
    """
    steps = [text(step, f"completions[{at}]") for at, step in enumerate(items(need(row, "completions"), "completions"))]
    labels = items(need(row, "labels"), "labels")
    if len(labels) != len(steps):
        raise RowError("wrong_type", f"labels must be a list with one label for each of the {len(steps)} steps")
    right = [_step_score(label, at) for at, label in enumerate(labels)]
    rule = row.get(STEP_RULE, "prefix")
    if rule == "prefix":
        num_right = next((at for at, score in enumerate(right) if score <= 0.5), len(right))
        score, desirable = num_right / len(right), num_right == len(right)
    else:
        score = aggregated(right, rule)
        desirable = score > 0.5
    prompt, (completion,) = divided(content(need(row, "prompt"), "prompt"), ("\n".join(steps),))
    return Rating(id=row_id, prompt=prompt, completion=completion, desirable=desirable, score=score)


def _step_score(label: Any, at: int) -> float:
    if isinstance(label, float) and label not in (0.0, 1.0):
        return as_number(label, f"labels[{at}]", 0.0, 1.0)
    return float(yes_or_no({"labels": label}, "labels"))


ANSWERS = ("answer", "solution", "ground_truth", "reference_answer", "final_answer")
"""Columns in use for the right answer beside a prompt alone."""


def prompt_only(row: Row, row_id: str) -> Prompt:
    """A prompt alone, under the names in use for it, with the right answer where the row has one."""
    asked, _ = divided(prompt_of(row), ("",))
    return Prompt(id=row_id, prompt=asked, answer=_answer_of(row))


def _answer_of(row: Row) -> str | None:
    value = next((row[name] for name in ANSWERS if row.get(name) is not None), None)
    return None if value is None else str(value)


def _divided(prompt: Text | None, completion: Text) -> tuple[Text, Text]:
    prompt, (completion,) = divided(prompt, (completion,))
    return prompt, completion


def _conversation(row: Row) -> tuple[Message, ...]:
    """The turns, which end with the assistant's."""
    column, dialogue = _turns_of(row)
    _require_reply(column, dialogue)
    return dialogue


def _require_reply(column: str, dialogue: tuple[Message, ...]) -> None:
    if dialogue[-1]["role"] != "assistant":
        raise RowError(
            "bad_roles", f"the last turn of {column} is the {dialogue[-1]['role']}'s, so there is no reply to learn"
        )


def _turns_of(row: Row) -> tuple[str, tuple[Message, ...]]:
    """The column of the turns, and the turns; a `prompt` beside them must be among them."""
    column = next((name for name in CONVERSATIONS if row.get(name) is not None), CONVERSATIONS[0])
    dialogue = turns(need(row, column), column)
    asked = as_turns(content(row["prompt"], "prompt"), "user") if row.get("prompt") else ()
    if not any(same_turns(dialogue[at : at + len(asked)], asked) for at in range(len(dialogue))):
        raise RowError("prompt_mismatch", f"the prompt is not among the turns of {column}")
    return column, dialogue


def _rated(row: Row, row_id: str, prompt: Text, completion: Text) -> Rating:
    label = next((name for name in LABELS if name in row), LABELS[0])
    return Rating(
        id=row_id,
        prompt=prompt,
        completion=completion,
        desirable=yes_or_no(row, label),
        score=next((score for column in SCORES if (score := number(row, column)) is not None), None),
    )
