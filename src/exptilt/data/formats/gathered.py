"""Formats in which several rows make one record: ratings of one prompt, and trees of messages.

An adapter with `gather` gets `{"rows": [...]}`, the rows of one key in the order of the source.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from exptilt.data.formats.dialogues import divided
from exptilt.data.formats.fields import ROLES, as_number, content, need, number, text, under, whole
from exptilt.data.formats.judged import summary_prompt
from exptilt.data.formats.ranked import ranks_of
from exptilt.data.problems import RowError
from exptilt.data.records import Message, Ranking, Text

Row = Mapping[str, Any]
_ATTRIBUTES = {"helpfulness": 0.65, "correctness": 0.8, "coherence": 0.45, "complexity": 0.55, "verbosity": -0.4}
"""Weights of HelpSteer2's attributes in the score of NVIDIA's 70B reward model."""


def helpsteer_key(row: Row) -> str:
    """The key of rows that belong together: their prompt."""
    return text(need(row, "prompt"), "prompt")


def helpsteer_ratings(row: Row, row_id: str) -> Ranking:
    """HelpSteer2 ratings: rows with `prompt`, `response` and five attributes from 0 to 4, ranked within the prompt."""
    rated = []
    for each in row["rows"]:
        parts = [weight * as_number(need(each, name), name, 0, 4) for name, weight in _ATTRIBUTES.items()]
        rated.append((content(need(each, "response"), "response"), round(sum(parts), 6)))
    return _ranking(row_id, content(row["rows"][0]["prompt"], "prompt"), rated)


def prometheus_key(row: Row) -> str:
    """The key of rows that belong together: their instruction and rubric."""
    return f"{text(need(row, 'orig_instruction'), 'orig_instruction')}\n{row.get('orig_criteria')}"


def prometheus_ratings(row: Row, row_id: str) -> Ranking:
    """Prometheus' feedback: rows with `orig_instruction`, `orig_response` and `orig_score`, ranked within a rubric."""
    rated = [
        (content(need(each, "orig_response"), "orig_response"), as_number(need(each, "orig_score"), "orig_score"))
        for each in row["rows"]
    ]
    return _ranking(row_id, content(row["rows"][0]["orig_instruction"], "orig_instruction"), rated)


def axis_key(row: Row) -> str:
    """The key of rows that belong together: their post."""
    return summary_prompt(row)


def axis(row: Row, row_id: str) -> Ranking:
    """summarize_from_feedback axis rows: the summaries of one post by their mean `overall` over all workers."""
    scores: dict[str, list[float]] = {}
    for each in row["rows"]:
        summary = under(need(each, "summary"), "summary")
        overall = number(under(summary.get("axes") or {}, "summary.axes"), "overall")
        if overall is None:
            raise RowError("unjudged", "summary.axes.overall is null in a row of this post")
        scores.setdefault(text(summary.get("text"), "summary.text"), []).append(overall)
    rated = [(completion, math.fsum(values) / len(values)) for completion, values in scores.items()]
    return _ranking(row_id, summary_prompt(row["rows"][0]), rated)


def tree_key(row: Row) -> str:
    """The key of messages that belong together: their tree."""
    return text(need(row, "message_tree_id"), "message_tree_id")


def tree(row: Row, row_id: str) -> tuple[Ranking, ...]:
    """OpenAssistant trees: every turn with two or more ranked replies is a ranking; rank 0 is best, null is unranked."""
    messages = {text(need(each, "message_id"), "message_id"): each for each in row["rows"]}
    replies: dict[str, list[Row]] = {}
    for each in messages.values():
        if each.get("parent_id") is not None and each.get("rank") is not None and _role(each) == "assistant":
            replies.setdefault(text(each["parent_id"], "parent_id"), []).append(each)
    rankings = []
    for parent, options in replies.items():
        if len(options) < 2 or parent not in messages:
            continue
        prompt = _path(messages, parent)
        completions: list[Text] = [
            ({"role": "assistant", "content": text(each.get("text"), "text")},) for each in options
        ]
        ranks = tuple(1 + whole(each["rank"], "rank", 0, 2**31 - 2) for each in options)
        rankings.append(Ranking(id=f"{row_id} {parent}", prompt=prompt, completions=tuple(completions), ranks=ranks))
    if not rankings:
        raise RowError("alone", "no message of this tree has two ranked replies")
    return tuple(rankings)


def _path(messages: Mapping[str, Row], leaf: str | None) -> tuple[Message, ...]:
    """The turns from the root to a message."""
    path: list[Message] = []
    while leaf is not None and len(path) <= len(messages):
        each = messages.get(leaf)
        if each is None:
            raise RowError("missing_column", f"message {leaf!r} is not in the source, so a reply has no context")
        path.append({"role": _role(each), "content": text(each.get("text"), "text")})
        leaf = None if each.get("parent_id") is None else text(each["parent_id"], "parent_id")
    return tuple(reversed(path))


def _role(message: Row) -> str:
    spoken = text(message.get("role"), "role")
    if spoken not in ROLES:
        raise RowError("bad_roles", f"unknown role {spoken!r}; known are {', '.join(ROLES)}")
    return ROLES[spoken]


def _ranking(row_id: str, prompt: Text, rated: list[tuple[Any, float]]) -> Ranking:
    if len(rated) < 2:
        raise RowError("alone", "the prompt has only one completion, so there is nothing to compare it with")
    prompt, completions = divided(prompt, [completion for completion, _ in rated])
    scores = tuple(score for _, score in rated)
    return Ranking(id=row_id, prompt=prompt, completions=completions, ranks=ranks_of(scores), scores=scores)
