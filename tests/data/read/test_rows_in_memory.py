"""Rows of a program: the same rows in any form, told by their content."""

from __future__ import annotations

import numpy as np
import pandas
import pyarrow
import pytest
from datasets import Dataset, DatasetDict

from exptilt.data.read.rows_in_memory import read_held, rows_in_memory
from exptilt.data.read.sources import read_rows
from exptilt.data.splits import read_records
from exptilt.errors import ConfigError, DataError
from exptilt.in_memory import holding, is_in_memory
from exptilt.settings.data_settings import DataConfig, SourceConfig

TURNS = [{"role": "user", "content": "2 + 2?"}]
ROWS = [{"prompt": TURNS, "chosen": "4", "rejected": "5"}, {"prompt": TURNS, "chosen": "four", "rejected": "5"}]
FORMS = {
    "list": lambda rows: rows,
    "tuple": tuple,
    "generator": iter,
    "Dataset": Dataset.from_list,
    "pandas": pandas.DataFrame,
    "pyarrow": pyarrow.Table.from_pylist,
}


@pytest.mark.parametrize("form", FORMS)
def test_a_form_changes_no_row_and_no_name(form):
    held = rows_in_memory(FORMS[form](ROWS))
    assert held.name == rows_in_memory(ROWS).name
    with holding(held):
        assert [row for _, row in read_rows(held.name)] == ROWS
        assert [row_id for row_id, _ in read_held(held.name, "train")] == ["rows:1", "rows:2"]


def test_any_change_of_a_row_changes_the_name():
    names = {
        rows_in_memory(rows).name for rows in (ROWS, ROWS[:1], ROWS[::-1], [ROWS[0], {**ROWS[1], "chosen": "Four"}])
    }
    assert len(names) == 4
    assert rows_in_memory(Dataset.from_list(ROWS).select([1, 0])).name == rows_in_memory(ROWS[::-1]).name


def test_cells_that_hold_nothing_are_no_columns():
    frame = pandas.DataFrame([{"prompt": "a", "margin": 1.5}, {"prompt": "b"}, {"prompt": None, "margin": np.nan}])
    held = rows_in_memory(frame)
    assert held.content == [{"prompt": "a", "margin": 1.5}, {"prompt": "b"}, {}]
    assert rows_in_memory([{"a": np.float64(1.5), "b": np.array([1, 2]), "c": np.bool_(True)}]).content == [
        {"a": 1.5, "b": [1, 2], "c": True}
    ]


def test_a_dictionary_of_splits_is_asked_for_its_split():
    held = rows_in_memory(DatasetDict(train=Dataset.from_list(ROWS), test=Dataset.from_list(ROWS[:1])))
    with holding(held):
        assert len(list(read_rows(held.name, "test"))) == 1
        with pytest.raises(DataError, match=r"rows: has no split 'dev'; it has train, test"):
            list(read_rows(held.name, "dev"))


def test_two_sources_in_memory_keep_their_ids_apart():
    first, second = rows_in_memory(ROWS), rows_in_memory([{**ROWS[0], "chosen": "IV"}])
    with holding(first, second):
        config = DataConfig(train=first.name, mixture=(SourceConfig(path=second.name),))
        ids = [record.id for record in read_records(config).train]
    assert ids == ["1/rows:1", "1/rows:2", "2/rows:1"]


def test_a_name_means_something_while_it_is_held():
    held = rows_in_memory(ROWS)
    assert is_in_memory(held.name)
    with holding(held), holding(rows_in_memory(ROWS)):
        pass
    with pytest.raises(ConfigError, match=r"memory:rows-\w{16}: stands for an object \(rows\)"):
        list(read_rows(held.name))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["a"], "rows: row 1 is str 'a' and no mapping; a row is, for example,"),
        ([ROWS[0], None], "rows: row 2 is NoneType None and no mapping"),
        ([], "rows: there is not one row in it"),
        (5, "rows: give a list of mappings, a datasets.Dataset, a table of pandas, a path or a hub id, got int 5"),
        ({"prompt": ["a"]}, "rows: a mapping of columns is no list of rows"),
        (Dataset.from_list(ROWS).to_iterable_dataset(), r"rows: a data set that streams \(IterableDataset\)"),
    ],
)
def test_what_is_no_rows_is_refused(rows, words):
    with pytest.raises(DataError, match=words):
        rows_in_memory(rows)
