from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exptilt.data import table as module
from exptilt.data.groups import Completion, Group
from exptilt.data.table import GroupTable
from exptilt.labels import Desirable, Preferred, Ranked

IDS = st.lists(st.integers(0, 2**31 - 1), max_size=5).map(lambda ids: np.array(ids, dtype=np.int32))


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
NAMES = st.text(st.characters(exclude_categories=["Cs"]))


@st.composite
def completions(draw):
    ids = draw(IDS)
    n = len(ids)
    behaviour = st.lists(st.floats(-99, 0, width=32), min_size=n, max_size=n)
    return Completion(
        ids=ids,
        counted=np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)), dtype=np.bool_),
        score=draw(st.none() | NUMBERS),
        behaviour=draw(st.none() | behaviour.map(lambda values: np.array(values, dtype=np.float32))),
        version=draw(st.none() | st.integers(0, 2**31 - 1)),
    )


@st.composite
def groups(draw):
    parts = draw(st.lists(completions(), min_size=1, max_size=4))
    labels = (
        st.none()
        | st.builds(Preferred, st.floats(0, 1), st.none() | st.floats(-9, 9))
        | st.tuples(*[st.integers(1, 9)] * len(parts)).map(Ranked)
        | st.booleans().map(Desirable)
    )
    return Group(
        id=draw(NAMES),
        prompt=draw(IDS),
        completions=tuple(parts),
        label=draw(labels),
        weight=draw(st.floats(0, 9)),
        section=draw(st.none() | NAMES),
    )


def listed(array):
    return None if array is None else (array.dtype, array.tolist())


def plain(group):
    alone = [(part.score, part.version, listed(part.behaviour)) for part in group.completions]
    tokens = [(listed(part.ids), listed(part.counted)) for part in group.completions]
    return group.id, listed(group.prompt), tokens, alone, group.label, group.weight, group.section


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
    group = Group(id="a:1", prompt=np.array([4], dtype=np.int32), completions=(part, part), label=Preferred(0.7))
    GroupTable.of([group]).save(tmp_path / "a.arrow")
    (row,) = pyarrow.ipc.open_file(tmp_path / "a.arrow").read_all().to_pylist()
    assert row["tokens"] == [4, 5, 6, 5, 6]
    assert (row["counted"], row["lengths"], row["num_counted"]) == ([0, 0, 1, 0, 1], [1, 2, 2], [1, 1])
    names = ("id", "p_chosen", "margin", "ranks", "desirable", "scores", "versions", "behaviour", "section")
    assert [row[name] for name in names] == ["a:1", 0.7, *[None] * 7]


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


def test_a_sampled_completion_takes_nine_bytes_a_token_and_a_written_one_five(tmp_path):
    """Four of an id, one of whether it counts, and four of the log-probability it was sampled with."""
    ids, counted = np.arange(1000, dtype=np.int32), np.ones(1000, dtype=np.bool_)

    def size(name, part):
        GroupTable.of(Group(id=str(n), prompt=ids[:1], completions=(part,)) for n in range(200)).save(tmp_path / name)
        return (tmp_path / name).stat().st_size / (200 * 1000)

    written, sampled = Completion(ids, counted), Completion(ids, counted, 1.0, -np.ones(1000, np.float32), 3)
    assert size("written", written) == pytest.approx(5, rel=0.03)
    assert size("sampled", sampled) == pytest.approx(9, rel=0.03)
