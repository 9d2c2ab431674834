"""The kind of objective that rows of a source are for, told by the first of them."""

from __future__ import annotations

from dataclasses import replace

from exptilt.data.records import Prompt
from exptilt.data.splits import read_splits
from exptilt.data.stage_account import Decisions
from exptilt.kinds import PAIR, PROMPT, Kind, kind_for
from exptilt.settings.data_settings import DataConfig

_FIRST_ROWS = 256
"""Rows that tell what kind of data a source holds."""


def kind_of_source(settings: DataConfig) -> Kind:
    """The kind of objective that rows of this source would be trained with, judged by the first of them."""
    alone = replace(settings, mixture=(), test=None, test_split=None, test_where={}, test_fraction=0.0)
    # All rows are read only if none of the first can be used.
    for limit in (min(settings.limit or _FIRST_ROWS, _FIRST_ROWS), settings.limit):
        records = read_splits(replace(alone, limit=limit), Decisions(settings.decisions))[0].records
        if records:
            answered = next((record for record in records if not isinstance(record, Prompt)), None)
            if answered is None:
                return PROMPT
            label = answered.label
            return kind_for(None if label is None else type(label))
    return PAIR
