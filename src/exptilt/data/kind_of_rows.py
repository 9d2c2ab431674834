"""The kind of objective that rows would be trained with, told from the first of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from exptilt.data.records import Prompt, Record
from exptilt.data.splits import read_splits
from exptilt.data.stage_account import Decisions
from exptilt.kinds import PAIR, PROMPT, Kind, kind_for
from exptilt.settings.data_settings import DataConfig

_FIRST_ROWS = 256
"""Rows that tell what kind of data a source holds."""


def kind_of_rows(settings: DataConfig) -> Kind:
    """The kind of objective that rows of these sources would be trained with.

    Raises:
        DataError: a source cannot be read.
    """
    # All rows are read only if none of the first can be used.
    for limit in (min(settings.limit or _FIRST_ROWS, _FIRST_ROWS), settings.limit):
        records = first_records(settings, limit)
        if records:
            answered = next((record for record in records if not isinstance(record, Prompt)), None)
            if answered is None:
                return PROMPT
            label = answered.label
            return kind_for(None if label is None else type(label))
    return PAIR


def first_records(settings: DataConfig, limit: int | None = _FIRST_ROWS) -> Sequence[Record]:
    """The records of the first rows of every source to train on, held-out ones among them."""
    alone = replace(settings, mixture=(), test=None, test_split=None, test_where={}, test_fraction=0.0, limit=limit)
    return read_splits(alone, Decisions(settings.decisions))[0].records
