"""Whatever is in a file, the answer is rows with an account, or one clear error."""

from __future__ import annotations

import gzip
import json
import os

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exptilt.data.formats import ADAPTERS
from exptilt.data.prepared import prepare
from exptilt.data.problems import CATALOGUE, RowError
from exptilt.errors import DataError
from exptilt.settings.data_settings import DataConfig

DROP = dict.fromkeys(("on_invalid", "on_empty", "on_identical", "on_duplicate", "on_tie", "on_conflict"), "drop")
MORE = int(os.environ.get("EXPTILT_FUZZ", "1"))
"""Times as many examples; `python tests/data/fuzz.py MINUTES` sets it."""
QUIET = settings(deadline=None, max_examples=80 * MORE, suppress_health_check=[HealthCheck.function_scoped_fixture])
ROLE = st.sampled_from(["user", "assistant", "system", "gpt", "alien", "", None])
TURN = st.dictionaries(
    st.sampled_from(["role", "from", "content", "value", "tool_calls"]), ROLE | st.integers(), max_size=3
)
GOOD_TURN = st.fixed_dictionaries(
    {"role": ROLE, "content": st.text(max_size=5) | st.lists(st.none() | TURN, max_size=2)}
)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | GOOD_TURN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)
PAIR_COLUMNS = ["prompt", "chosen", "rejected", "p_chosen", "margin", "weight", "id"]
OTHER_COLUMNS = ["completion", "completions", "messages", "conversations", "label", "ranks", "scores", "text"]
COLUMN = st.sampled_from(PAIR_COLUMNS + OTHER_COLUMNS)
ROW = st.dictionaries(COLUMN, VALUE, max_size=6)


def account(path):
    """Rows that are not kept have a reason, whatever the kind."""
    for kind in ("pair", "completion", "unpaired", "list"):
        try:
            report = prepare(DataConfig(train=str(path), **DROP), None, kind, strict=False).report.train
        except DataError:
            continue
        assert report.examples - sum(report.examples_left_out.values()) == report.kept
        assert report.rows >= sum(report.rows_left_out.values())


@QUIET
@given(st.sampled_from([".jsonl", ".json", ".csv", ".parquet", ".jsonl.gz"]), st.binary(max_size=60))
def test_any_bytes(tmp_path, suffix, data):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data)
    account(path)


@QUIET
@given(st.lists(ROW, min_size=1, max_size=4))
def test_any_rows(tmp_path, rows):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    account(path)


@QUIET
@given(st.integers(0, 200), st.integers(0, 255))
def test_a_damaged_gzip(tmp_path, position, byte):
    packed = bytearray(gzip.compress(b'{"prompt": "a", "chosen": "b", "rejected": "c"}\n' * 20, mtime=0))
    packed[position % len(packed)] = byte
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(bytes(packed))
    account(path)


NESTED = st.dictionaries(
    st.sampled_from(["response", "answer", "text", "rank", "score", "annotations", "i", "j", "label", "messages",
                     "tools", "post", "article", "overall", "axes", "confidence", "full_text", "honesty", "Rating"]),
    VALUE,
    max_size=4,
)  # fmt: skip
CELL = (
    VALUE
    | NESTED
    | st.lists(NESTED, max_size=3)
    | st.lists(st.text(max_size=4), max_size=3)
    | st.sampled_from(["[]", '["a"]', "tie", "model_a", "\n\nHuman: a\n\nAssistant: b", 0, 1, 2])
)


@settings(deadline=None, max_examples=400 * MORE)
@given(st.sampled_from(ADAPTERS), st.data())
def test_any_cell_in_any_format_is_a_record_or_a_row_error(adapter, data):
    columns = st.dictionaries(st.sampled_from(sorted(adapter.columns)), CELL, max_size=len(adapter.columns))
    rows = data.draw(st.lists(columns, min_size=1, max_size=3))
    try:
        keys = [adapter.gather(row) for row in rows] if adapter.gather is not None else []
        made = adapter.record({"rows": rows} if adapter.gather else rows[0], "f:1")
    except RowError as error:
        keys, made = [error.code], ()
    assert all(isinstance(key, str) for key in keys)
    assert made != () or set(keys) <= CATALOGUE.keys()
    for record in made if isinstance(made, tuple) else (made,):
        assert all(isinstance(part, str | tuple) for part in (record.prompt, *record.completions))
