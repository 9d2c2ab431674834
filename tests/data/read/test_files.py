from __future__ import annotations

import gzip
import json

import pytest

from exptilt.data.problems import RowError
from exptilt.data.read import hub, hub_files
from exptilt.data.read.sources import read_rows
from exptilt.errors import DataError

ROWS = [{"prompt": "é?", "chosen": "a", "rejected": "b"}, {"prompt": "q", "chosen": "c", "rejected": "NA"}]
LINES = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)


def rows_of(path, **options):
    return list(read_rows(str(path), **options))


def test_jsonl_rows_are_named_by_line_and_blank_lines_count(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(LINES.replace("\n", "\n\n"), encoding="utf-8")
    assert rows_of(path) == [("a.jsonl:1", ROWS[0]), ("a.jsonl:3", ROWS[1])]


def test_byte_order_mark_and_crlf_change_nothing(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + LINES.replace("\n", "\r\n").encode() + b"\r\n")
    assert [row for _, row in rows_of(path)] == ROWS


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl"])
def test_gzip_is_told_by_content_not_by_name(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(gzip.compress(LINES.encode()))
    assert [row for _, row in rows_of(path)] == ROWS


def test_json_array_and_json_lines_in_a_json_file(tmp_path):
    array, lines = tmp_path / "a.json", tmp_path / "b.json"
    array.write_text(json.dumps(ROWS, indent=1))
    lines.write_text(LINES, encoding="utf-8")
    assert rows_of(array) == [("a.json:1", ROWS[0]), ("a.json:2", ROWS[1])]
    assert [row for _, row in rows_of(lines)] == ROWS


def test_csv_keeps_text_as_text_and_names_the_first_line_of_a_row(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbfprompt,chosen,rejected\r\n"two\nlines",NA,007\r\nq,,null\r\nshort,row\r\n')
    first, second, third = rows_of(path)
    assert first == ("a.csv:2", {"prompt": "two\nlines", "chosen": "NA", "rejected": "007"})
    assert second == ("a.csv:4", {"prompt": "q", "chosen": "", "rejected": "null"})
    assert third[0] == "a.csv:5"
    assert "2 cells where the first line names 3 columns" in str(third[1])


def test_parquet_and_saved_folders_give_the_same_rows(tmp_path):
    import datasets

    table = datasets.Dataset.from_list(ROWS)
    table.to_parquet(tmp_path / "a.parquet")
    table.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": table, "test": table.select([1])}).save_to_disk(tmp_path / "two")
    assert rows_of(tmp_path / "a.parquet") == [("a.parquet:1", ROWS[0]), ("a.parquet:2", ROWS[1])]
    assert [row for _, row in rows_of(tmp_path / "one")] == ROWS
    assert rows_of(tmp_path / "two", split="test") == [("two:1", ROWS[1])]
    with pytest.raises(DataError, match="has no split 'dev'; it has train, test"):
        rows_of(tmp_path / "two", split="dev")


def test_limit_stops_reading(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(LINES, encoding="utf-8")
    assert [row_id for row_id, _ in rows_of(path, limit=1)] == ["a.jsonl:1"]


@pytest.mark.parametrize(
    ("line", "code", "detail"),
    [
        (b'{"prompt": "a" "b"}', "invalid_json", "invalid JSON: Expecting ',' delimiter at column 16"),
        (b'{"prompt": "a', "invalid_json", "Unterminated string"),
        (b"[1, 2]", "not_an_object", "must be an object with named columns, got list"),
        (b"null", "not_an_object", "got NoneType"),
        (b'{"prompt": "\xff"}', "invalid_utf8", "not valid UTF-8 at byte 13 of the line"),
        (b'{"prompt": ' + b"9" * 5000 + b"}", "invalid_json", "invalid JSON: Exceeds the limit"),
        (b"[" * 100_000, "invalid_json", "invalid JSON: nested too deeply"),
    ],
)
def test_a_bad_line_is_a_row_error_and_reading_goes_on(tmp_path, line, code, detail):
    path = tmp_path / "a.jsonl"
    path.write_bytes(line + b"\n" + LINES.encode())
    (row_id, error), *others = rows_of(path)
    assert row_id == "a.jsonl:1"
    assert isinstance(error, RowError)
    assert error.code == code
    assert detail in error.detail
    assert [row for _, row in others] == ROWS


def damaged_gzip(path):
    path.write_bytes(gzip.compress(LINES.encode() * 100, mtime=0)[:-20])


def damaged_parquet(path):
    path.write_bytes(b"PAR1" + b"\x00" * 40)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("a.jsonl", lambda path: path.write_bytes(b""), "the file is empty"),
        ("a.jsonl", lambda path: path.write_bytes(b"\n \n"), "there is not one row in it"),
        ("a.json", lambda path: path.write_bytes(b"[]"), "there is not one row in it"),
        ("a.json", lambda path: path.write_bytes(b'[{"a": 1},\n{]'), "invalid JSON: .* at line 2 column 2"),
        ("a.csv", lambda path: path.write_bytes(b"prompt,chosen\n"), "there is not one row in it"),
        ("a.csv", lambda path: path.write_bytes(b'a,b\n"open,1\n'), "line 2: not valid CSV: unexpected end of data"),
        ("a.csv", lambda path: path.write_bytes(b"a,a\n1,2\n"), "two columns have the same name"),
        ("a.csv", lambda path: path.write_bytes(b"\xff,b\n1,2\n"), "line 1: not valid UTF-8 at byte 1"),
        ("a.csv", lambda path: path.write_bytes(b"a;b\n1;2\n"), "the columns seem to be separated by ';'; write"),
        ("a.json", lambda path: path.write_bytes(b'[{"a": 1},\n{"b": 2},\n{"c'), "after row 2: invalid JSON: Untermin"),
        ("a.jsonl", lambda path: path.write_bytes(LINES.encode("utf-16")), "the file is UTF-16; write it as UTF-8"),
        ("a.json", lambda path: path.write_bytes(gzip.compress(b"[1]")[:-9]), "after block 0 of 262,144 bytes"),
        ("a.jsonl.gz", damaged_gzip, "the gzip file is cut short or damaged after line"),
        ("a.parquet", damaged_parquet, "damaged or no parquet file"),
        (
            "a.parquet",
            lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
            "this is a git-lfs pointer, not the data; run `git lfs pull`",
        ),
        ("a.txt", lambda path: path.write_bytes(b"x"), "unknown type of file; known are .jsonl"),
    ],
)
def test_a_bad_file_is_one_line_with_its_path(tmp_path, name, write, message):
    path = tmp_path / name
    write(path)
    with pytest.raises(DataError, match=message) as caught:
        rows_of(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_csv_line_that_is_no_utf8_spoils_no_other(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'prompt,chosen\nq,a\n"two\nlines \xff",b\nr,c\n')
    (_, first), (row_id, error), last = rows_of(path)
    assert first == {"prompt": "q", "chosen": "a"}
    assert (row_id, error.code, error.detail) == ("a.csv:3", "invalid_utf8", "not valid UTF-8 at byte 7 of line 4")
    assert last == ("a.csv:5", {"prompt": "r", "chosen": "c"})


def damage(path, old, new):
    path.write_bytes(path.read_bytes().replace(old, new))


@pytest.fixture
def parquet(tmp_path):
    """2,000 rows, whose text stands in the file as it is."""
    import pyarrow.parquet

    path, rows = (
        tmp_path / "a.parquet",
        [{"prompt": f"question {n:04}", "chosen": f"answer {n:04}"} for n in range(2000)],
    )
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False, "row_group_size": 500}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, **plain)
    return path


def test_a_parquet_row_that_is_no_utf8_spoils_no_other(parquet):
    damage(parquet, b"question 1234", b"question \xff\xff34")
    found = rows_of(parquet)
    assert len(found) == 2000
    assert found[1234] == ("a.parquet:1235", {"prompt": b"question \xff\xff34", "chosen": "answer 1234"})
    assert found[1235] == ("a.parquet:1236", {"prompt": "question 1235", "chosen": "answer 1235"})


def test_a_parquet_file_damaged_in_its_middle_says_how_far_it_could_be_read(parquet):
    damage(parquet, b"question 1500", b"\xff" * 200 + b"question 1500")
    with pytest.raises(DataError, match=r"a.parquet: (after row \d+: )?damaged"):
        rows_of(parquet)


def test_a_saved_folder_whose_text_is_no_utf8_loses_the_cell_alone(tmp_path):
    import datasets

    datasets.Dataset.from_list([{"prompt": f"question {n:04}"} for n in range(50)]).save_to_disk(tmp_path / "saved")
    (arrow,) = (tmp_path / "saved").glob("*.arrow")
    damage(arrow, b"question 0030", b"question \xff\xff30")
    found = rows_of(tmp_path / "saved")
    assert [row_id for row_id, row in found if isinstance(row["prompt"], bytes)] == ["saved:31"]


def test_a_missing_file_names_the_one_that_was_meant(tmp_path):
    (tmp_path / "pairs.jsonl").write_text(LINES, encoding="utf-8")
    with pytest.raises(DataError, match=r"pair\.jsonl: no such file or folder; did you mean .*pairs\.jsonl\?"):
        rows_of(tmp_path / "pair.jsonl")


def test_a_folder_that_datasets_did_not_save(tmp_path):
    with pytest.raises(DataError, match="holds neither files of rows nor a data set"):
        rows_of(tmp_path)
    for name in ("b.jsonl.gz", "a.parquet", "c.txt"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"files of several kinds \(.jsonl, .parquet\); name some: .*/\*.jsonl"):
        rows_of(tmp_path)


def test_a_hub_id_that_cannot_be_fetched_is_one_line(monkeypatch):
    import datasets

    def refuse(*args, **kwargs):
        raise ConnectionError("no network\nlong story")

    monkeypatch.setattr(hub, "is_reachable", lambda: True)
    monkeypatch.setattr(datasets, "load_dataset_builder", refuse)
    with pytest.raises(
        DataError, match=r"owner/name: no such file here, and the hub gives no data set: no network long story$"
    ):
        rows_of("owner/name")


def test_files_that_our_readers_do_not_read_are_loaded_by_datasets_with_split_subset_and_revision(monkeypatch):
    import datasets

    asked, loaded = [], datasets.Dataset.from_list(ROWS)
    monkeypatch.setattr(hub, "is_reachable", lambda: True)
    monkeypatch.setattr(hub_files, "_listed", lambda *asked: None)
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: asked.append((args, kwargs)) or loaded)
    rows = rows_of("owner/name", split="test", subset="small", revision="abc")
    assert rows[1] == ("owner/name/test:2", ROWS[1])
    assert asked == [(("owner/name", "small"), {"split": "test", "revision": "abc"})]


TABLE = [{"prompt": "q\tr", "chosen": "a", "rejected": "b"}, {"prompt": "s", "chosen": "c", "rejected": "d"}]


def written(folder, name, rows=TABLE):
    """Rows in a file of the kind its name says."""
    import pyarrow
    import pyarrow.feather

    path, table = folder / name, pyarrow.Table.from_pylist(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if name.endswith(".jsonl.zst"):
        with pyarrow.output_stream(str(path), compression="zstd") as out:
            out.write(lines)
    elif name.endswith(".arrow"):
        with pyarrow.ipc.new_stream(str(path), table.schema) as out:
            out.write_table(table)
    elif name.endswith(".feather"):
        pyarrow.feather.write_feather(table, str(path))
    elif name.endswith(".tsv"):
        cells = [list(rows[0]), *(row.values() for row in rows)]
        path.write_text("".join("\t".join(f'"{cell}"' for cell in line) + "\n" for line in cells))
    else:
        path.write_bytes(lines)
    return path


@pytest.mark.parametrize("name", ["a.jsonl.zst", "a.arrow", "a.feather", "a.tsv"])
def test_packed_lines_arrow_and_tabs_give_the_same_rows(tmp_path, name):
    found = rows_of(written(tmp_path, name))
    assert [row for _, row in found] == TABLE
    assert found[0][0] == {"a.tsv": "a.tsv:2"}.get(name, f"{name}:1")


def test_a_packed_file_that_is_cut_short_is_one_line(tmp_path):
    path = written(tmp_path, "a.jsonl.zst", [{"prompt": f"{n * 7919 % 10007}"} for n in range(50_000)])
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DataError, match=r"a.jsonl.zst: cannot be read after line [\d,]+: "):
        rows_of(path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_key_that_occurs_twice_in_one_object_is_refused_and_spoils_no_other_row(tmp_path, name):
    twice = '{"prompt": "q", "meta": {"chosen": 1, "chosen": 2}}'
    lines = [json.dumps(ROWS[0]), twice, json.dumps(ROWS[1])]
    (tmp_path / name).write_text("\n".join(lines) if name == "a.jsonl" else f"[{', '.join(lines)}]")
    first, second, third = rows_of(tmp_path / name)
    assert (first[1], third[1]) == (ROWS[0], ROWS[1])
    assert (second[0], second[1].code) == (f"{name}:2", "invalid_json")
    assert str(second[1]) == "invalid JSON: the key 'chosen' occurs twice in one object"
