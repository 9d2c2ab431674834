"""Rows with K completions in an order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from exptilt.data.formats.dialogues import divided
from exptilt.data.formats.fields import as_number, content, items, need, whole
from exptilt.data.formats.token_ids import ids_of_list
from exptilt.data.problems import RowError
from exptilt.data.records import Ranking

Row = Mapping[str, Any]


def ranking(row: Row, row_id: str) -> Ranking:
    """`prompt`, `completions` and `ranks` (1 is best) or `scores` (higher is better); equal ones are ties."""
    values = items(need(row, "completions"), "completions", 2)
    completions = tuple(content(value, f"completions[{position}]") for position, value in enumerate(values))
    prompt, completions = divided(content(need(row, "prompt"), "prompt"), completions)
    scores = None if row.get("scores") is None else _scores(row, len(completions))
    ranks = ranks_of(scores) if row.get("ranks") is None and scores is not None else _ranks(row, len(completions))
    return Ranking(
        id=row_id,
        prompt=prompt,
        completions=completions,
        ranks=ranks,
        scores=scores,
        drawn_ids=ids_of_list(row, len(completions)),
    )


def triple(row: Row, row_id: str) -> Ranking:
    """`gold` (or `reference`), `chosen` and `rejected`, from the best down, as Triple Preference Optimization takes them."""
    name = "gold" if row.get("gold") is not None else "reference"
    sides = [content(need(row, column), column) for column in (name, "chosen", "rejected")]
    prompt, completions = divided(content(need(row, "prompt"), "prompt"), sides)
    return Ranking(id=row_id, prompt=prompt, completions=completions, ranks=(1, 2, 3))


def ranks_of(scores: Sequence[float]) -> tuple[int, ...]:
    """Ranks of scores, 1 for the highest; equal scores share the best rank among them.

    Example:
        >>> ranks_of([0.5, 2.0, 0.5, 1.0])
        (3, 1, 3, 2)
    """
    return tuple(1 + sum(other > score for other in scores) for score in scores)


def _scores(row: Row, count: int) -> tuple[float, ...]:
    return tuple(as_number(value, f"scores[{at}]") for at, value in enumerate(_values(row, "scores", count)))


def _ranks(row: Row, count: int) -> tuple[int, ...]:
    return tuple(whole(value, f"ranks[{at}]", 1) for at, value in enumerate(_values(row, "ranks", count)))


def _values(row: Row, column: str, count: int) -> Sequence[Any]:
    values = items(need(row, column), column)
    if len(values) != count:
        raise RowError("wrong_type", f"{column} must be a list with one number for each of the {count} completions")
    return values
