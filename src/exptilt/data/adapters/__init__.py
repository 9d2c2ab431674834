"""Known row formats: how to tell each from its columns, and how a row becomes a record."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from exptilt.data.adapters.catalogue import ADAPTERS, ALWAYS, Adapter, Row
from exptilt.errors import DataError

__all__ = ["ADAPTERS", "Adapter", "find"]


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
            return adapter, tuple(sorted(merged.keys() - adapter.columns - ALWAYS))
    raise DataError(_unknown(merged, source))


def _unknown(columns: Mapping[str, Any], source: str) -> str:
    known = sorted({"prompt", "chosen", "rejected", "completion", "completions", "messages", "label"} - columns.keys())
    guesses = {column: difflib.get_close_matches(column, known, n=1, cutoff=0.8) for column in columns}
    meant = [f"{near[0]}: {column}" for column, near in guesses.items() if near]
    hint = f"; perhaps data.columns={{{', '.join(meant)}}}" if meant else ""
    nearest = sorted(ADAPTERS, key=lambda adapter: -_likeness(adapter, columns))[:4]
    formats = "; ".join(f"{adapter.name}: {adapter.shape}" for adapter in nearest)
    found = " ".join(", ".join(columns).split())[:300] or "none"
    return (
        f"{source}: no known format has its columns ({found}){hint}; rename them with data.columns; "
        f"the nearest known formats: {formats} (of {len(ADAPTERS)}; data.format names them)"
    )


def _likeness(adapter: Adapter, columns: Mapping[str, Any]) -> float:
    """How many of the format's columns are there, and how few of its own are missing."""
    needed = set(adapter.shape.split(", "))
    return len(needed & columns.keys()) / len(needed | columns.keys())
