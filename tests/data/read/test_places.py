from __future__ import annotations

import io
import json
import os
import threading

import pytest

from exptilt.data.read import places
from exptilt.data.read.places import files_of
from exptilt.data.read.sources import read_rows
from exptilt.errors import DataError


def shard(path, *numbers):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"n": number}) + "\n" for number in numbers))
    return path


def numbers(source, split="train"):
    return [row["n"] for _, row in read_rows(str(source), split)]


def test_shards_of_a_folder_are_read_in_the_order_of_their_numbers(tmp_path):
    for number in (10, 2, 1):
        shard(tmp_path / f"part-{number}.jsonl", number)
    shard(tmp_path / ".hidden" / "part-0.jsonl", 0)
    (tmp_path / "README.md").write_text("about")
    assert numbers(tmp_path) == [1, 2, 10]
    assert [row_id for row_id, _ in read_rows(str(tmp_path))][1] == "part-2.jsonl:1"


def test_a_folder_whose_files_name_their_split_gives_the_one_asked_for(tmp_path):
    shard(tmp_path / "data" / "train-00000-of-00002.jsonl", 1)
    shard(tmp_path / "data" / "train-00001-of-00002.jsonl", 2)
    shard(tmp_path / "data" / "test-00000-of-00001.jsonl", 3)
    assert numbers(tmp_path) == [1, 2]
    assert numbers(tmp_path, "test") == [3]
    with pytest.raises(DataError, match="no files of split 'validation'; it has test, train"):
        numbers(tmp_path, "validation")
    shard(tmp_path / "data" / "more.jsonl", 4)
    with pytest.raises(DataError, match=r"of others none \(more.jsonl\); use a pattern"):
        numbers(tmp_path)


def test_a_pattern_reads_all_that_match_and_says_where_none_does(tmp_path):
    for number in (1, 2):
        shard(tmp_path / f"set{number}" / "a.jsonl", number)
    assert numbers(tmp_path / "**" / "*.jsonl") == [1, 2]
    assert [row_id for row_id, _ in read_rows(str(tmp_path / "*" / "a.jsonl"))] == ["set1/a.jsonl:1", "set2/a.jsonl:1"]
    with pytest.raises(DataError, match=r"\*.parquet: no file has such a name"):
        numbers(tmp_path / "*.parquet")
    odd = shard(tmp_path / "a[1].jsonl", 5)
    assert numbers(odd) == [5]


def test_standard_input_is_copied_once_and_read_as_often_as_needed(monkeypatch, tmp_path):
    places._copied.cache_clear()
    stream = io.TextIOWrapper(io.BytesIO(b'{"n": 1}\n{"n": 2}\n'))
    monkeypatch.setattr("sys.stdin", stream)
    assert numbers("-") == numbers("-") == [1, 2]
    assert files_of("-", "train")[0].name == "stdin.json"
    places._copied.cache_clear()


def test_a_pipe_is_read_like_a_file(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text('n\tm\n"1"\t2\n'))
    writer.start()
    assert [row for _, row in read_rows(str(pipe))] == [{"n": "1", "m": "2"}]
    writer.join()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("a" * 5000, "File name too long"),
        ("/dev/null", "is neither a file nor a folder"),
        ("no\0where.jsonl", "no such file or folder"),
        ("~nobody-of-this-name/a.jsonl", "no such file or folder"),
    ],
)
def test_a_place_that_cannot_be_read_is_one_short_line(source, said):
    with pytest.raises(DataError) as caught:
        list(read_rows(source))
    assert said in str(caught.value)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_a_file_without_permission_is_one_line(tmp_path, monkeypatch):
    path = shard(tmp_path / "a.jsonl", 1)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(DataError, match=r"a.jsonl: cannot be opened: Permission denied"):
        numbers(path)


def test_a_link_that_leads_nowhere_is_no_shard_fewer(tmp_path):
    shard(tmp_path / "part-1.jsonl", 1)
    (tmp_path / "part-2.jsonl").symlink_to(tmp_path / "gone.jsonl")
    for source in (tmp_path, tmp_path / "*.jsonl"):
        with pytest.raises(DataError, match=r"part-2.jsonl: is a link to .*gone.jsonl, which is not there"):
            numbers(source)


def test_linked_folders_belong_to_a_folder_and_a_circle_ends(tmp_path):
    shard(tmp_path / "other" / "b.jsonl", 2)
    shard(tmp_path / "all" / "a.jsonl", 1)
    (tmp_path / "all" / "linked").symlink_to(tmp_path / "other")
    (tmp_path / "all" / "circle").symlink_to(tmp_path / "all")
    shard(tmp_path / "all" / ".hidden" / "c.jsonl", 3)
    assert numbers(tmp_path / "all") == [1, 2]


def test_a_folder_inside_that_cannot_be_read_is_told(tmp_path, monkeypatch):
    shard(tmp_path / "a.jsonl", 1)
    shard(tmp_path / "locked" / "b.jsonl", 2)
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="locked: cannot be opened: Permission denied"):
        numbers(tmp_path)
