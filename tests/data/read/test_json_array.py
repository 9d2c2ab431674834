from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exptilt.data.problems import RowError
from exptilt.data.read import json_array
from exptilt.data.read.json_array import array_items

SMALL = 24
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
)


def cut(data, size):
    return [data[at : at + size] for at in range(0, len(data), size)]


@given(st.lists(VALUE, max_size=6), st.integers(1, 60), st.sampled_from([None, 1]), st.booleans())
def test_items_are_those_of_the_whole_wherever_it_is_cut(values, size, indent, ascii_only):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_array, "_BLOCK", SMALL)
        data = json.dumps(values, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
        try:
            whole = json.loads(data.decode())
        except UnicodeDecodeError:
            with pytest.raises(RowError, match="not valid UTF-8"):
                list(array_items(cut(data, size)))
        else:
            assert list(array_items(cut(data, size))) == whole


@given(st.lists(VALUE, max_size=4), st.integers(0, 200), st.sampled_from(list('[]{},:"\\ 1e-x')), st.integers(1, 60))
def test_what_is_no_json_as_a_whole_is_none_in_parts_and_at_the_same_place(values, place, mark, size):
    text = json.dumps(values)
    place %= len(text) + 1
    text = text[:place] + mark + text[place:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_array, "_BLOCK", SMALL)
        try:
            whole = json.loads(text)
        except json.JSONDecodeError:
            with pytest.raises(RowError, match=r"at line 1 column \d+"):
                list(array_items(cut(text.encode(), size)))
        else:
            if isinstance(whole, list):
                assert list(array_items(cut(text.encode(), size))) == whole


def test_items_before_a_fault_are_given_and_the_fault_has_its_line_and_column():
    items = array_items(cut(b'[{"a": 1},\n {"b" 2}]', 7))
    assert next(items) == {"a": 1}
    with pytest.raises(RowError, match="Expecting ':' delimiter at line 2 column 7"):
        next(items)


def test_a_large_file_is_not_held(monkeypatch):
    monkeypatch.setattr(json_array, "_BLOCK", 100)
    read = []

    def blocks():
        yield b"["
        for number in range(1000):
            read.append(number)
            yield b'{"a": 1},' * 10
        yield b"1]"

    items = array_items(blocks())
    assert [next(items) for _ in range(20)] == [{"a": 1}] * 20
    assert len(read) < 10
