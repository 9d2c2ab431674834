"""Known row formats: how to tell each from its columns, and how a row becomes a record."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from exptilt.data import hh
from exptilt.data.adapters import pairs, ranked, single
from exptilt.data.records import Record
from exptilt.errors import DataError

Row = Mapping[str, Any]
_ALWAYS = frozenset({"id", "weight"})
_PAIR = frozenset({"p_chosen", "margin", *(name for names in pairs.SCORES for name in names)})


@dataclass(frozen=True, slots=True)
class Adapter:
    """One row format."""

    name: str
    shape: str
    """Its columns, for messages to people."""
    fits: Callable[[Row], bool]
    """Whether a row that holds one value of every column of the source is of this format."""
    record: Callable[[Row, str], Record]
    """Make a record of a row and its id; raises `RowError`."""
    columns: frozenset[str]
    """Every column it reads."""


def _pair(row: Row) -> bool:
    return {"chosen", "rejected"} <= row.keys()


def _transcripts(row: Row) -> bool:
    return _pair(row) and "prompt" not in row and hh.is_transcript(row["chosen"]) and hh.is_transcript(row["rejected"])


def _one_turn_each(row: Row) -> bool:
    if not _pair(row) or "prompt" in row:
        return False
    return "conversations" in row or ("messages" in row and isinstance(row["chosen"], Mapping))


def _conversation(row: Row) -> bool:
    return "messages" in row or "conversations" in row


ADAPTERS: tuple[Adapter, ...] = (
    Adapter("hh", "chosen, rejected (whole Human/Assistant transcripts)", _transcripts, pairs.transcripts,
            frozenset({"chosen", "rejected"}) | _PAIR),
    Adapter("sharegpt", "conversations, chosen, rejected", _one_turn_each, pairs.sharegpt,
            frozenset({"conversations", "messages", "chosen", "rejected"}) | _PAIR),
    Adapter("preference", "prompt, chosen, rejected", _pair, pairs.preference,
            frozenset({"prompt", "chosen", "rejected"}) | _PAIR),
    Adapter("ranking", "prompt, completions, ranks or scores",
            lambda row: {"prompt", "completions"} <= row.keys() and ("ranks" in row or "scores" in row), ranked.ranking,
            frozenset({"prompt", "completions", "ranks", "scores"})),
    Adapter("rating", "prompt, completion, label",
            lambda row: {"prompt", "completion", "label"} <= row.keys(), single.rating,
            frozenset({"prompt", "completion", "label", "score"})),
    Adapter("rated_messages", "messages or conversations, label",
            lambda row: _conversation(row) and ("label" in row or "kto_tag" in row), single.rated_messages,
            frozenset({"messages", "conversations", "label", "kto_tag", "score"})),
    Adapter("demonstration", "prompt, completion",
            lambda row: {"prompt", "completion"} <= row.keys(), single.demonstration,
            frozenset({"prompt", "completion"})),
    Adapter("messages", "messages or conversations", _conversation, single.messages,
            frozenset({"messages", "conversations"})),
    Adapter("text", "text", lambda row: "text" in row, single.plain_text, frozenset({"text"})),
)  # fmt: skip
"""In the order they are tried: the first that fits is taken."""


def find(sample: Sequence[Row], source: str, name: str = "auto") -> tuple[Adapter, tuple[str, ...]]:
    """The adapter for rows like those of `sample`, and the columns it will not read.

    Raises:
        DataError: if no format has these columns; the message lists them and what is known.
    """
    merged: dict[str, Any] = {}
    for row in sample:
        for column, value in row.items():
            if value is not None:
                merged.setdefault(column, value)
    for adapter in ADAPTERS:
        if adapter.name == name or (name == "auto" and adapter.fits(merged)):
            return adapter, tuple(sorted(merged.keys() - adapter.columns - _ALWAYS))
    raise DataError(_unknown(merged, source))


def _unknown(columns: Mapping[str, Any], source: str) -> str:
    known = sorted({"prompt", "chosen", "rejected", "completion", "completions", "messages", "label"} - columns.keys())
    guesses = {column: difflib.get_close_matches(column, known, n=1, cutoff=0.8) for column in columns}
    meant = [f"{near[0]}: {column}" for column, near in guesses.items() if near]
    hint = f"; perhaps data.columns={{{', '.join(meant)}}}" if meant else ""
    formats = "; ".join(f"{adapter.name}: {adapter.shape}" for adapter in ADAPTERS)
    found = " ".join(", ".join(columns).split())[:300] or "none"
    return (
        f"{source}: no known format has its columns ({found}){hint}; rename them with data.columns; "
        f"known formats: {formats}"
    )
