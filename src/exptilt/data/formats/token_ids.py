"""Token ids that a row carries, as its completions were sampled: text does not always become the same tokens again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from exptilt.data.formats.fields import items, need, whole
from exptilt.data.problems import RowError
from exptilt.data.records import DrawnIds

PROMPT = "prompt_ids"
OF_PAIR = (PROMPT, "chosen_ids", "rejected_ids")
OF_LIST = (PROMPT, "completions_ids")
OF_ONE = (PROMPT, "completion_ids")
"""Columns of token ids by format; `exptilt sample` and `exptilt pair` write them."""


def ids_of_pair(row: Mapping[str, Any]) -> DrawnIds | None:
    """Token ids of the two sides; None where the row has none."""
    return _drawn(row, [(name, row.get(name)) for name in OF_PAIR[1:]])


def ids_of_list(row: Mapping[str, Any], count: int) -> DrawnIds | None:
    """Token ids of K completions; None where the row has none."""
    if row.get(OF_LIST[1]) is None:
        return None
    each = items(row[OF_LIST[1]], OF_LIST[1])
    if len(each) != count:
        raise RowError(
            "wrong_type", f"{OF_LIST[1]} must be a list for each of the {count} completions, got {len(each)}"
        )
    return _drawn(row, [(f"{OF_LIST[1]}[{at}]", value) for at, value in enumerate(each)])


def ids_of_one(row: Mapping[str, Any]) -> DrawnIds | None:
    """Token ids of the only completion; None where the row has none."""
    return _drawn(row, [(OF_ONE[1], row.get(OF_ONE[1]))])


def _drawn(row: Mapping[str, Any], named: Sequence[tuple[str, Any]]) -> DrawnIds | None:
    if all(value is None for _, value in named):
        return None
    if any(value is None for _, value in named):
        need(row, next(name for name, value in named if value is None))
    return DrawnIds(_ids(need(row, PROMPT), PROMPT), tuple(_ids(value, name) for name, value in named))


def _ids(value: Any, name: str) -> tuple[int, ...]:
    return tuple(whole(each, f"an id of {name}", 0) for each in items(value, name))
