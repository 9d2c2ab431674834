from __future__ import annotations

import pytest

from exptilt.data.formats import find
from exptilt.data.formats.row_context import in_context
from exptilt.data.problems import RowError


def record_of(row, name="auto"):
    adapter, _ = find([row], "file", name)
    made = adapter.record(row, "file:1")
    records = in_context(made, [row], adapter.columns)
    return adapter.name, records if isinstance(made, tuple) else records[0]


def error_of(row, name="auto", like=None):
    adapter, _ = find([like or row], "file", name)
    with pytest.raises(RowError) as caught:
        in_context(adapter.record(row, "file:1"), [row], adapter.columns)
    return caught.value


@pytest.fixture(scope="session")
def read():
    """The format a row is taken for, and its record."""
    return record_of


@pytest.fixture(scope="session")
def refused():
    """The code of what is wrong with a row."""
    return lambda row, name="auto": error_of(row, name).code


@pytest.fixture(scope="session")
def refused_with():
    """Code and detail of what is wrong with a row, read as rows like another."""
    return lambda row, like=None: (error_of(row, like=like).code, error_of(row, like=like).detail)
