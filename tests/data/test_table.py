from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exptilt.data import table as module
from exptilt.data.groups import Completion, Group
from exptilt.data.table import GroupTable

IDS = st.lists(st.integers(0, 2**31 - 1), max_size=5).map(lambda ids: np.array(ids, dtype=np.int32))


@st.composite
def groups(draw):
    parts = []
    for ids in draw(st.lists(IDS, min_size=1, max_size=4)):
        counted = draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids)))
        parts.append(Completion(ids=ids, counted=np.array(counted, dtype=np.bool_)))
    ranked = st.tuples(*[st.integers(1, 9)] * len(parts))
    scored = st.tuples(*[st.floats(allow_nan=False, allow_infinity=False)] * len(parts))
    return Group(
        id=draw(st.text(st.characters(exclude_categories=["Cs"]))),
        prompt=draw(IDS),
        completions=tuple(parts),
        p_chosen=draw(st.floats(0, 1)),
        margin=draw(st.none() | st.floats(-9, 9)),
        ranks=draw(st.just(()) | ranked),
        scores=draw(st.none() | scored),
        desirable=draw(st.booleans()),
        weight=draw(st.floats(0, 9)),
        section=draw(st.none() | st.text(st.characters(exclude_categories=["Cs"]))),
    )


def plain(group):
    arrays = [group.prompt, *(array for part in group.completions for array in (part.ids, part.counted))]
    rest = (
        group.id,
        group.p_chosen,
        group.margin,
        group.ranks,
        group.scores,
        group.desirable,
        group.weight,
        group.section,
    )
    return [(array.dtype, array.tolist()) for array in arrays], rest


@settings(deadline=None, max_examples=60)
@given(st.lists(groups(), max_size=6), st.integers(1, 3))
def test_groups_come_back_as_they_were(tmp_path_factory, many, chunk):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", chunk)
        made = GroupTable.of(many)
        patch.setattr(module, "MOST_IN_MEMORY", 500)
        spilled = GroupTable.of(many)
    path = tmp_path_factory.getbasetemp() / "table.arrow"
    made.save(path)
    for table in (made, spilled, GroupTable.load(path)):
        assert [plain(group) for group in table] == [plain(group) for group in many]
        assert [plain(group) for group in table[1:]] == [plain(group) for group in many[1:]]
        assert table.prompt_lengths.tolist() == [len(group.prompt) for group in many]
        counts = [part.length for group in many for part in group.completions]
        assert table.completion_lengths().tolist() == counts
        assert table.completion_lengths(0).tolist() == [group.completions[0].length for group in many]


def test_what_is_too_much_for_memory_goes_to_a_file_that_does_not_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 2)
    monkeypatch.setattr(module, "MOST_IN_MEMORY", 0)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    part = Completion(ids=np.arange(2, dtype=np.int32), counted=np.ones(2, dtype=np.bool_))
    groups = [Group(id=str(n), prompt=np.arange(n, dtype=np.int32), completions=(part,)) for n in range(7)]
    builder = module.TableBuilder()
    for group in groups:
        builder.add(group)
    assert len(list(tmp_path.iterdir())) == 1
    table = builder.table()
    assert list(tmp_path.iterdir()) == []
    assert [(group.id, len(group.prompt)) for group in table] == [(str(n), n) for n in range(7)]
    broken_off = module.TableBuilder()
    for group in groups:
        broken_off.add(group)
    assert len(list(tmp_path.iterdir())) == 1
    del broken_off
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_arrow_that_others_read(tmp_path):
    import pyarrow

    part = Completion(ids=np.array([5, 6], dtype=np.int32), counted=np.array([False, True]))
    group = Group(id="a:1", prompt=np.array([4], dtype=np.int32), completions=(part, part), p_chosen=0.7)
    GroupTable.of([group]).save(tmp_path / "a.arrow")
    (row,) = pyarrow.ipc.open_file(tmp_path / "a.arrow").read_all().to_pylist()
    assert row["tokens"] == [4, 5, 6, 5, 6]
    assert (row["counted"], row["lengths"], row["num_counted"]) == ([0, 0, 1, 0, 1], [1, 2, 2], [1, 1])
    assert (row["id"], row["p_chosen"], row["margin"], row["scores"], row["section"]) == ("a:1", 0.7, None, None, None)


def test_positions_count_from_either_end_and_nothing_lies_beyond():
    part = Completion(ids=np.arange(2, dtype=np.int32), counted=np.ones(2, dtype=np.bool_))
    table = GroupTable.of(Group(id=str(n), prompt=np.arange(n, dtype=np.int32), completions=(part,)) for n in range(3))
    assert (table[-1].id, table[0].id, len(table)) == ("2", "0", 3)
    for index in (3, -4):
        with pytest.raises(IndexError, match="there are 3 groups"):
            table[index]


def test_a_group_is_a_copy_that_can_be_written_to():
    part = Completion(ids=np.arange(2, dtype=np.int32), counted=np.ones(2, dtype=np.bool_))
    table = GroupTable.of([Group(id="a", prompt=np.arange(1, dtype=np.int32), completions=(part,))])
    table[0].completions[0].ids[0] = 99
    assert table[0].completions[0].ids.tolist() == [0, 1]
