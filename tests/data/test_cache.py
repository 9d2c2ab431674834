from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest

from exptilt.data import cache
from exptilt.data import prepared as module
from exptilt.data.prepared import prepare
from exptilt.data.read import hub, hub_files
from exptilt.errors import DataError
from exptilt.settings.data_settings import DataConfig


def write(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Everything is worth keeping, and how often rows were read is counted."""
    monkeypatch.setenv("EXPTILT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "LEAST_GROUPS", 1)
    reads = []
    original = module.read_splits
    monkeypatch.setattr(module, "read_splits", lambda *args: reads.append(1) or original(*args))
    return reads


ROWS = [{"prompt": f"question {n}", "chosen": f" good {n}", "rejected": f" bad {n}"} for n in range(12)]


def said(prepared):
    return [
        (group.id, group.prompt.tolist(), [part.ids.tolist() for part in group.completions])
        for part in (prepared.train, prepared.test)
        for group in part
    ]


def test_the_second_time_nothing_is_read_and_everything_is_the_same(tmp_path, kept, base_tokenizer):
    config = DataConfig(train=write(tmp_path / "a.jsonl", ROWS), test_fraction=0.3)
    first, second = prepare(config, base_tokenizer, "pair"), prepare(config, base_tokenizer, "pair")
    assert len(kept) == 1
    assert said(first) == said(second)
    assert first.report == second.report


@pytest.mark.parametrize("change", ["row", "setting", "kind", "context", "tokenizer", "template"])
def test_whatever_the_tokens_depend_on_makes_them_new(tmp_path, kept, base_tokenizer, make_tokenizer, change):
    path = write(tmp_path / "a.jsonl", ROWS)
    prepare(DataConfig(train=path), base_tokenizer, "pair", 64)
    if change == "row":
        write(tmp_path / "a.jsonl", [*ROWS[:-1], {**ROWS[-1], "chosen": " fine"}])
    config = DataConfig(train=path, boundary="merge" if change == "setting" else "split")
    chat = "{{ messages }}" if change == "template" else None
    tokenizer = (
        make_tokenizer(bos=change == "tokenizer", chat=chat) if chat or change == "tokenizer" else base_tokenizer
    )
    prepare(config, tokenizer, "completion" if change == "kind" else "pair", 32 if change == "context" else 64)
    assert len(kept) == 2


def test_errors_are_kept_as_well(tmp_path, kept, base_tokenizer):
    config = DataConfig(train=write(tmp_path / "a.jsonl", [*ROWS, {**ROWS[0], "chosen": ""}]))
    for _ in range(2):
        with pytest.raises(DataError, match=r"a.jsonl:13: chosen is empty"):
            prepare(config, base_tokenizer, "pair")
    assert len(kept) == 1


def test_small_data_and_data_without_tokens_are_not_kept(tmp_path, monkeypatch, base_tokenizer):
    monkeypatch.setenv("EXPTILT_CACHE", str(tmp_path / "cache"))
    config = DataConfig(train=write(tmp_path / "a.jsonl", ROWS))
    prepare(config, base_tokenizer, "pair")
    prepare(config, None, "pair")
    assert not (tmp_path / "cache").exists()


def test_a_folder_that_cannot_be_written_to_is_no_reason_to_stop(tmp_path, kept, base_tokenizer, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EXPTILT_CACHE", str(tmp_path / "file"))
    config = DataConfig(train=write(tmp_path / "a.jsonl", ROWS))
    assert len(prepare(config, base_tokenizer, "pair").train) == 12


@pytest.fixture
def on_hub(tmp_path, monkeypatch):
    """Puts rows on what stands for the hub, under a revision and a configuration; every call is a new process."""

    def load(source, subset, *, split, revision):
        return datasets.load_from_disk(str(tmp_path / f"{source.replace('/', '-')}-{subset}-{revision}"))[split]

    def put(rows, name="own-er", subset=None, revision=None):
        splits = {"train": rows, "test": rows[:4]}
        made = datasets.DatasetDict({split: datasets.Dataset.from_list(some) for split, some in splits.items()})
        made.save_to_disk(tmp_path / f"{name}-{subset}-{revision}")
        hub.data_set.cache_clear()
        hub_files.files_on_hub.cache_clear()

    monkeypatch.setattr(hub, "is_reachable", lambda: True)
    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(datasets, "load_dataset_builder", None)
    monkeypatch.setattr(hub_files, "_listed", lambda *asked: None)
    return put


def test_a_hub_data_set_is_made_once_and_again_when_its_content_moves(tmp_path, kept, base_tokenizer, on_hub):
    config = DataConfig(train="own/er", test_split="test", on_leak="keep")
    on_hub(ROWS)
    first = prepare(config, base_tokenizer, "pair")
    hub.data_set.cache_clear()
    second = prepare(config, base_tokenizer, "pair")
    assert len(kept) == 1
    assert said(first) == said(second)
    on_hub([*ROWS[:-1], {**ROWS[-1], "chosen": " fine"}])  # the same name, another commit
    moved = prepare(config, base_tokenizer, "pair")
    assert len(kept) == 2
    assert said(moved)[:11] == said(first)[:11]
    assert said(moved)[11] != said(first)[11]


@pytest.mark.parametrize(
    "change", [{"train": "own/other"}, {"subset": "small"}, {"revision": "abc"}, {"split": "test", "test_split": None}]
)
def test_name_configuration_revision_and_split_each_have_a_place_of_their_own(kept, base_tokenizer, on_hub, change):
    settings = {"train": "own/er", "test_split": "test", "on_leak": "keep"}
    on_hub(ROWS)
    prepare(DataConfig(**settings), base_tokenizer, "pair")
    on_hub(ROWS, change.get("train", "own/er").replace("/", "-"), change.get("subset"), change.get("revision"))
    prepare(DataConfig(**settings | change), base_tokenizer, "pair")
    assert len(kept) == 2


def test_hub_rows_without_files_are_made_every_time(kept, base_tokenizer, monkeypatch):
    monkeypatch.setattr(hub, "is_reachable", lambda: False)
    monkeypatch.setattr(hub, "data_set", lambda *asked: datasets.Dataset.from_list(ROWS))
    for _ in range(2):
        prepare(DataConfig(train="own/er"), base_tokenizer, "pair")
    assert len(kept) == 2


def test_a_listed_hub_data_set_is_known_by_its_files_and_none_is_fetched_again(
    tmp_path, kept, base_tokenizer, monkeypatch
):
    path = write(tmp_path / "a.jsonl", ROWS)
    fetched = []

    def list_as(commit, digest):
        files = (hub_files.HubFile("a.jsonl", digest, 1),)
        monkeypatch.setattr(hub_files, "_listed", lambda *asked: hub_files.HubFiles("own/er", commit, files, None))
        hub_files.files_on_hub.cache_clear()

    monkeypatch.setattr(hub, "is_reachable", lambda: True)
    monkeypatch.setattr(hub_files.HubFiles, "_fetched", lambda self, file: fetched.append(file.path) or Path(path))
    list_as("0" * 40, "one")
    first = prepare(DataConfig(train="own/er"), base_tokenizer, "pair")
    list_as("1" * 40, "one")  # another commit, which left the rows alone
    assert said(prepare(DataConfig(train="own/er"), base_tokenizer, "pair")) == said(first)
    assert (fetched, len(kept)) == (["a.jsonl"], 1)
    list_as("2" * 40, "two")
    prepare(DataConfig(train="own/er"), base_tokenizer, "pair")
    assert (fetched, len(kept)) == (["a.jsonl"] * 2, 2)
