"""Known row formats: recognising each by its columns, and converting its rows to records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

from exptilt.data.formats.known_formats import ADAPTERS, ALWAYS, Adapter, Row
from exptilt.errors import DataError
from exptilt.wording import SURE, nearest

__all__ = ["ADAPTERS", "ALWAYS", "Adapter", "asked_for_instead", "find", "known_columns"]


def find(sample: Sequence[Row], source: str, name: str = "auto") -> tuple[Adapter, tuple[str, ...]]:
    """Find the adapter for rows like those of `sample`, and the columns that it will not read.

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
            unread = sorted(merged.keys() - adapter.columns - ALWAYS)
            return adapter, tuple(name.encode("utf-8", "replace").decode() for name in unread)
    raise DataError(_unknown(merged, source))


def asked_for_instead(columns: Set[str], chosen: Adapter, unread: Set[str]) -> tuple[Adapter, list[str]] | None:
    """A fitting format that must be asked for and reads more of the columns: its adapter, and those further columns."""
    for adapter in ADAPTERS:
        more = sorted(unread & adapter.columns)
        if adapter.is_asked_for and adapter is not chosen and more and columns >= set(adapter.shape.split(", ")):
            return adapter, more
    return None


def known_columns() -> frozenset[str]:
    """Every column that any format reads."""
    return ALWAYS.union(*(adapter.columns for adapter in ADAPTERS))


def _unknown(columns: Mapping[str, Any], source: str) -> str:
    known = sorted({"prompt", "chosen", "rejected", "completion", "completions", "messages", "label"} - columns.keys())
    guesses = {column: near for column in columns if (near := nearest(column, known, SURE))}
    meant = [f"{near}: {column}" for column, near in guesses.items()]
    hint = f"; did you mean 'data.columns={{{', '.join(meant)}}}'?" if meant else ""
    likely = {*columns, *guesses.values()}
    likeliest = [
        adapter
        for adapter in sorted(ADAPTERS, key=lambda candidate: -_likeness(candidate, likely))
        if _likeness(adapter, likely)
    ]
    common = [adapter for adapter in ADAPTERS if adapter.name in _COMMON]
    formats = "; ".join(f"{adapter.name}: {adapter.shape}" for adapter in (likeliest or common)[:5])
    column_list = " ".join(", ".join(columns).split())[:300] or "none"
    return (
        f"{source}: no known format has its columns ({column_list}){hint}; rename them with data.columns; "
        f"the {'nearest' if likeliest else 'most common'} formats: {formats} (of {len(ADAPTERS)}; data.format names them)"
    )


_COMMON = ("preference", "ranking", "rating", "demonstration", "messages")


def _likeness(adapter: Adapter, columns: Set[str]) -> float:
    """The share of columns that are in both: columns of the row that the format needs, divided by all of either."""
    needed = set(adapter.shape.split(", "))
    return len(needed & columns) / len(needed | columns)
