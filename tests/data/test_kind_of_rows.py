"""The kind of rows by the first of them."""

from __future__ import annotations

from unittest import mock

from exptilt.data.kind_of_rows import kind_of_rows
from exptilt.data.splits import read_splits
from exptilt.settings.data_settings import DataConfig


def test_the_first_rows_tell_the_kind_and_all_rows_where_none_of_them_can_be_used(write_rows):
    rated = [{"prompt": f"{n}?", "completion": f"{n}.", "label": bool(n % 2), "set": n // 300} for n in range(600)]
    path = write_rows("rated.jsonl", rated)
    asked = []

    def reading(config, decisions):
        asked.append(config.limit)
        return read_splits(config, decisions)

    with mock.patch("exptilt.data.kind_of_rows.read_splits", reading):
        assert kind_of_rows(DataConfig(train=str(path), test_fraction=0.5)) == "unpaired"
        assert kind_of_rows(DataConfig(train=str(path), limit=20)) == "unpaired"
        assert kind_of_rows(DataConfig(train=str(path), where={"set": 1})) == "unpaired"
    assert asked == [256, 20, 256, None]
