from __future__ import annotations

import json

import pytest

from exptilt.data.prepared import prepare
from exptilt.data.splits import read_records
from exptilt.errors import ConfigError, DataError
from exptilt.settings.data_settings import DataConfig
from exptilt.settings.load import load
from exptilt.settings.source_settings import SourceConfig


def write(path, rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def pairs(name, count):
    return [{"prompt": f"{name} {n}", "chosen": f" good {n}", "rejected": f" bad {n}"} for n in range(count)]


@pytest.fixture
def two(tmp_path):
    shp = [{"history": f"post {n}", "human_ref_A": "x", "human_ref_B": "yy", "labels": 1} for n in range(400)]
    return write(tmp_path / "a.jsonl", pairs("a", 40)), write(tmp_path / "b.jsonl", shp)


def mixed(two, **weights):
    config = DataConfig(
        train=two[0],
        weight=weights.get("first", 1.0),
        mixture=(SourceConfig(path=two[1], weight=weights.get("second", 1.0)),),
    )
    return config, prepare(config, None, "pair").report.train


def test_sources_of_two_formats_are_read_one_after_the_other(two):
    config, report = mixed(two)
    records = read_records(config).train
    assert [record.id for record in records[38:42]] == ["a.jsonl:39", "a.jsonl:40", "b.jsonl:1", "b.jsonl:2"]
    assert (report.format, report.rows, report.kept) == ("preference + shp", 440, 440)
    assert [(part.format, part.rows, part.records) for part in report.sources] == [
        ("preference", 40, 40),
        ("shp", 400, 400),
    ]


def test_a_weight_says_how_often_each_row_is_used(two):
    config, report = mixed(two, first=2.5, second=0.25)
    records = read_records(config).train
    times = [sum(record.prompt == f"a {n}" for record in records) for n in range(40)]
    assert set(times) == {2, 3}
    assert 10 < times.count(3) < 30
    posts = [record.id for record in records if record.id.startswith("b")]
    assert len(posts) == len(set(posts))
    assert 70 < len(posts) < 130
    assert report.rows_left_out == {"not_sampled": 400 - len(posts)}
    assert report.repeated == sum(times) - 40
    assert report.rows - 400 + len(posts) + report.repeated == report.examples == report.kept


def test_the_same_rows_are_taken_in_every_run_and_more_weight_only_adds(two):
    first, again, more = (
        {record.id for record in read_records(mixed(two, second=weight)[0]).train} for weight in (0.3, 0.3, 0.6)
    )
    assert first == again
    assert first < more


def test_weight_0_leaves_a_source_out_and_says_so(two):
    assert mixed(two, second=0.0)[1].rows_left_out == {"not_sampled": 400}


def test_repetition_by_weight_is_no_duplicate_but_a_row_in_two_sources_is(tmp_path):
    one, other = write(tmp_path / "a.jsonl", pairs("a", 3)), write(tmp_path / "b.jsonl", pairs("a", 1))
    with pytest.raises(DataError, match=r"b.jsonl:1: repeats a.jsonl:1"):
        read_records(DataConfig(train=one, weight=3, mixture=(SourceConfig(path=other),)))


def test_files_of_one_name_have_different_row_ids(tmp_path):
    one, other = write(tmp_path / "x" / "a.jsonl", pairs("a", 1)), write(tmp_path / "y" / "a.jsonl", pairs("b", 1))
    records = read_records(DataConfig(train=one, mixture=(SourceConfig(path=other),))).train
    assert [record.id for record in records] == ["1/a.jsonl:1", "2/a.jsonl:1"]


@pytest.mark.parametrize("second", ["y", "y/*.jsonl"])
def test_files_of_one_name_in_folders_and_patterns_have_too(tmp_path, second):
    write(tmp_path / "x" / "a.jsonl", pairs("a", 1))
    write(tmp_path / "y" / "a.jsonl", pairs("b", 1))
    config = DataConfig(train=str(tmp_path / "x"), mixture=(SourceConfig(path=str(tmp_path / second)),))
    assert [record.id for record in read_records(config).train] == ["1/a.jsonl:1", "2/a.jsonl:1"]


def test_a_column_renamed_between_files_is_mapped_in_its_own_source_or_named(tmp_path):
    one = write(tmp_path / "a.jsonl", pairs("a", 2))
    other = write(tmp_path / "b.jsonl", [{"prompt": "b", "chosen": "x", "reject": "y"}])
    with pytest.raises(DataError, match=r"b.jsonl: no known format .*\{rejected: reject\}"):
        read_records(DataConfig(train=one, mixture=(SourceConfig(path=other),)))
    source = SourceConfig(path=other, columns={"rejected": "reject"})
    assert len(read_records(DataConfig(train=one, mixture=(source,))).train) == 3


def test_rows_that_are_not_wanted_are_counted(tmp_path):
    rows = [{**row, "split": "validation" if n % 4 == 0 else "train"} for n, row in enumerate(pairs("a", 8))]
    path = write(tmp_path / "a.jsonl", rows)
    config = DataConfig(train=path, where={"split": "train"}, test_where={"split": "validation"})
    report = prepare(config, None, "pair").report
    assert (report.train.kept, report.train.rows_left_out) == (6, {"filtered": 2})
    assert (report.test.kept, report.test.rows_left_out) == (2, {"filtered": 6})


def test_a_prompt_with_too_many_pairs_is_capped(tmp_path):
    rows = [{"history": "post", "human_ref_A": f"a{n}", "human_ref_B": f"b{n}", "labels": n % 2, "score_ratio": 1 + n}
            for n in range(8)]  # fmt: skip
    config = DataConfig(train=write(tmp_path / "a.jsonl", rows), max_per_prompt=5, min_margin=2)
    report = prepare(config, None, "pair").report.train
    assert report.examples_left_out == {"small_margin": 1, "over_prompt_limit": 2}
    assert report.kept == 5


def test_a_recipe_writes_a_mixture_in_yaml(tmp_path):
    recipe = tmp_path / "data.yaml"
    recipe.write_text("train: a.jsonl\nmixture:\n- path: b.jsonl\n  weight: 0.5\n  columns: {prompt: question}\n")
    config = load(DataConfig, recipe)
    assert config.mixture == (SourceConfig(path="b.jsonl", weight=0.5, columns={"prompt": "question"}),)
    with pytest.raises(ConfigError, match="weight must be at least 0, got -1"):
        load(DataConfig, None, ["train=a", "mixture=[{path: b, weight: -1}]"])


def test_train_is_a_list_of_paths_and_sources_with_weights(two, tmp_path):
    """The rows are those of the same sources written as `train` and `mixture`."""
    listed = load(DataConfig, None, [f"train=[{two[0]}, {{path: {two[1]}, weight: 0.25}}]"])
    config, report = mixed(two, second=0.25)
    mine = prepare(listed, None, "pair").report.train
    assert [record.id for record in read_records(listed).train] == [record.id for record in read_records(config).train]
    assert (mine.kept, mine.rows_left_out, mine.sources) == (report.kept, report.rows_left_out, report.sources)
    assert load(DataConfig, None, [f"train={{{two[0]}: 1, {two[1]}: 0.25}}"]) == listed
    assert DataConfig(train=[two[0], SourceConfig(path=two[1], weight=0.25)]) == listed


def test_keys_of_data_hold_for_every_source_without_its_own(tmp_path):
    questions = [{"question": f"q {n}", "chosen": "a", "rejected": "b"} for n in range(3)]
    files = [write(tmp_path / f"{name}.jsonl", questions) for name in ("a", "b")]
    config = DataConfig(train=files, columns={"prompt": "question"}, limit=2, on_duplicate="drop")
    assert [record.prompt for record in read_records(config).train] == ["q 0", "q 1"]
    own = [files[0], {"path": files[1], "limit": 3}]
    longer = load(
        DataConfig, None, [f"train={json.dumps(own)}", "columns={prompt: question}", "limit=2", "on_duplicate=keep"]
    )
    assert [part.rows for part in prepare(longer, None, "pair").report.train.sources] == [2, 3]


def test_a_row_repeated_in_another_file_is_told_with_both_files(two, tmp_path):
    same = write(tmp_path / "c.jsonl", pairs("a", 3))
    with pytest.raises(DataError, match=r"c\.jsonl:1.*a\.jsonl:1") as refusal:
        prepare(DataConfig(train=[two[0], same]), None, "pair")
    assert "3 rows: c.jsonl:1, 2, 3" in str(refusal.value)
    assert prepare(DataConfig(train=[two[0], same], on_duplicate="drop"), None, "pair").report.train.kept == 40


def test_the_test_split_is_that_of_every_listed_source(tmp_path):
    for name in ("one", "two"):
        for split in ("train", "test"):
            write(tmp_path / name / f"{split}.jsonl", pairs(f"{name} {split}", 2))
    config = DataConfig(train=[str(tmp_path / name) for name in ("one", "two")], test_split="test", test_limit=1)
    rows = read_records(config)
    assert [record.prompt for record in rows.train] == [f"{name} train {n}" for name in ("one", "two") for n in (0, 1)]
    assert [record.prompt for record in rows.test] == ["one test 0", "two test 0"]
    several = DataConfig(
        train=str(tmp_path / "one" / "train.jsonl"),
        test=[str(tmp_path / "one" / "test.jsonl"), str(tmp_path / "two")],
        test_split="test",
    )
    assert len(read_records(several).test) == 4


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("train=[]", "train must name at least one source"),
        ("train=[a.jsonl, a.jsonl]", "write {path: a.jsonl, weight: 2}"),
        ("train=[a.jsonl, 5]", "train.1: must be a valid string"),
        ("train=[{path: a.jsonl, wieght: 2}]", "train.0.wieght: unknown key; did you mean 'weight'?"),
        ("train=[{path: a.jsonl, weight: -1}]", "train.0: weight must be at least 0"),
        ("train=[{weight: 2}]", "train.0.path: missing"),
    ],
)
def test_a_wrong_list_is_one_line(given, said):
    with pytest.raises(ConfigError) as refusal:
        load(DataConfig, None, [given])
    (line,) = str(refusal.value).splitlines()
    assert said in line


def test_several_files_written_as_one_are_told_how_a_list_is_written(two):
    with pytest.raises(DataError, match=r"several sources are a list: data\.train=\["):
        read_records(DataConfig(train=",".join(two)))
    with pytest.raises(DataError, match=r"several sources are a list"):
        read_records(DataConfig(train=" ".join(two)))


def test_a_broken_line_is_named_where_holding_out_fails_first(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(pairs("a", 1)[0]) + '\n{"prompt": "b", \n')
    with pytest.raises(DataError, match=r"rows\.jsonl:2"):
        read_records(DataConfig(train=str(file), test_fraction=0.5))
