"""Mistakes in data, models and disks: each is one line, and torch is never imported and no weight read for it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from exptilt.data.cache import LEAST_GROUPS
from exptilt.data.text_checks import check_texts
from exptilt.errors import DataError, DiskError
from exptilt.kinds import PAIR
from exptilt.runs.first_checks import check_run
from exptilt.runs.run_recipe import run_recipe
from exptilt.settings.data_settings import DataConfig
from exptilt.settings.load import load
from exptilt.settings.recipe import Recipe

ASK = """
import contextlib, io, json, sys
from exptilt.cli import main
answers = {}
for name, words in json.load(open(sys.argv[1])).items():
    sys.argv = ["exptilt", *words]
    out, err, status = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as leaving:
            status = leaving.code or 0
    answers[name] = [status, err.getvalue(), sorted({"torch", "transformers", "datasets"} & set(sys.modules))]
json.dump(answers, sys.stdout)
"""
GOOD = {"prompt": "Say {n}.", "chosen": "Well, {n}.", "rejected": "No {n}!"}


def rows(count=12, **changes):
    return [{key: value.format(n=n) for key, value in GOOD.items()} | changes for n in range(count)]


def lines(path, *some):
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in some))


@pytest.fixture(scope="module")
def home(_trained, tmp_path_factory):
    """A folder with a model `m`, rows `rows.jsonl`, a recipe `r.yaml`, and wrong ones of each."""
    home = tmp_path_factory.mktemp("first")
    shutil.copytree(_trained.folder / "model", home / "m")
    lines(home / "rows.jsonl", *rows())
    (home / "r.yaml").write_text("output: run\nmodel: {path: m}\ndata: {train: rows.jsonl}\n")
    _wrong_rows(home)
    _wrong_models(home)
    (home / "file").write_text("mine")
    (home / "mine").mkdir()
    (home / "mine" / "thesis.txt").write_text("mine")
    return home


def _wrong_rows(home):
    lines(home / "broken.jsonl", *rows(6), '{"prompt": "cut of', *rows(1, prompt="another"))
    lines(home / "column.jsonl", *({"question": f"q {n}", "answer_one": "a"} for n in range(3)))
    lines(home / "late.jsonl", *rows(70), {"prompt": "a", "chosen": 5, "rejected": "x"})
    lines(home / "empty.jsonl", *rows(3), *rows(1, chosen=" ", prompt="e"))
    lines(home / "same.jsonl", *rows(3), *rows(1, chosen="x", rejected="x"))
    lines(home / "twice.jsonl", *rows(3), *rows(2))
    lines(home / "against.jsonl", *rows(3), {"prompt": "Say 1.", "chosen": "No 1!", "rejected": "Well, 1."})
    lines(home / "labels.jsonl", *({"prompt": f"p{n}", "completion": f"c{n}", "label": True} for n in range(4)))
    (home / "nothing.jsonl").write_text("")
    (home / "page.html").write_text("<html>")
    (home / "sheet.csv").write_text("prompt,chosen,rejected\na,b\n")
    (home / "cut.jsonl.gz").write_bytes(b"\x1f\x8b\x08\x00cut")
    (home / "bad.parquet").write_bytes(b"PAR1 no parquet")
    (home / "folder").mkdir()
    (home / "lfs.jsonl").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n")


def _wrong_models(home):
    def model(name):
        shutil.copytree(home / "m", home / name)
        return home / name

    (model("no-config") / "config.json").unlink()
    (model("bad-config") / "config.json").write_text("{")
    (model("no-type") / "config.json").write_text("{}")
    (model("no-weights") / "model.safetensors").unlink()
    weights = model("cut-weights") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    (model("no-safetensors") / "model.safetensors").write_bytes(b"not at all")
    (model("lfs") / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    shards = model("shards")
    (shards / "model.safetensors").unlink()
    (shards / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1-of-2.safetensors"}}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (model(f"no-{name}") / name).unlink() if name == "tokenizer.json" else (
            home / f"no-{'tokenizer.json'}" / name
        ).unlink()
    (model("bad-tokenizer") / "tokenizer.json").write_text("[")
    adapter = home / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/gone/base"}))
    shutil.copy(home / "m" / "model.safetensors", adapter / "adapter_model.safetensors")
    bare = home / "bare-adapter"
    bare.mkdir()
    (bare / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(home / "m")}))
    shutil.copytree(home / "m", home / "some-run" / "model")


TRAIN = {
    "data.train=rowz.jsonl": "rowz.jsonl: no such file or folder; did you mean rows.jsonl?",
    "data.train=rows.jsonl,late.jsonl": "several sources are a list",
    "data.train=[rows.jsonl, gone.jsonl]": "gone.jsonl: no such file",
    "data.train=nothing.jsonl": "nothing.jsonl: the file is empty",
    "data.train=broken.jsonl": "broken.jsonl:7",
    "data={train: broken.jsonl, test_fraction: 0.001}": "broken.jsonl:7",
    "data.train=column.jsonl": "column.jsonl",
    "data.train=late.jsonl": "late.jsonl:71",
    "data.train=empty.jsonl": "empty.jsonl:4",
    "data.train=same.jsonl": "same.jsonl:4",
    "data.train=twice.jsonl": "twice.jsonl:4",
    "data.train=against.jsonl": "against.jsonl",
    "data.train=labels.jsonl": "labels.jsonl",
    "data.train=page.html": "page.html",
    "data.train=sheet.csv": "sheet.csv",
    "data.train=cut.jsonl.gz": "cut.jsonl.gz",
    "data.train=bad.parquet": "bad.parquet",
    "data.train=folder": "folder",
    "data.train=lfs.jsonl": "git-lfs",
    "data.train=*.json": "*.json",
    "data.columns={prompt: qestion}": "data.columns names 'qestion', and no row has such a column",
    "data.columns={promt: prompt}": "data.columns.promt: no format reads a column of that name; did you mean 'prompt'?",
    "data.where={lang: en}": "data.where names 'lang'",
    "data.ignore_columns=[note]": "data.ignore_columns names 'note'",
    "data={train: rows.jsonl, format: hh, ignore_columns: [prompt]}": "rows.jsonl:1: the transcript does not begin",
    "data.test=rows.jsonl": "train and test are the same rows",
    "data.test=tset.jsonl": "tset.jsonl: no such file",
    "data.test_fraction=0.0001": "leaves 12 rows to train on and 0 to test on",
    "data.chat_template=gema": "did you mean 'gemma'?",
    "data.chat_template=mine.jinja": "no file 'mine.jinja'",
    "model.path=mm": "did you mean m?",
    "model.path=./n": "model.path: ./n: no such folder",
    "model.path=some-run": "config.json or adapter_config.json is not in it; did you mean some-run/model?",
    "model.path=file": "is a file; give the folder of a model",
    "model.path=no-config": "config.json or adapter_config.json is not in it",
    "model.path=bad-config": "bad-config/config.json: is no valid JSON",
    "model.path=no-type": "says no model_type",
    "model.path=no-weights": "holds no weights",
    "model.path=cut-weights": "model.safetensors: is cut off",
    "model.path=no-safetensors": "is no whole safetensors file",
    "model.path=lfs": "git lfs pull",
    "model.path=shards": "model-1-of-2.safetensors is missing",
    "model.path=no-tokenizer.json": "is no tokenizer folder",
    "model.path=bad-tokenizer": "tokenizer.json: is no valid JSON",
    "model.path=adapter": "its base model /gone/base is not there",
    "model.path=bare-adapter": "holds no weights: adapter_model.safetensors",
    "model.path=null": "no model given",
    "model.tokenizer=folder": "model.tokenizer: folder: is no tokenizer folder",
    "reference.model=folder": "reference.model: folder: is no model folder",
    "adapter.path=folder": "adapter.path: folder: is no adapter folder",
    "output=file": "output must be a folder, and a file is in its way",
    "output=mine": "holds files that exptilt did not make (thesis.txt)",
    "output=m": "output is model.path=m, which would be replaced",
    "output=m/run": "output lies inside model.path=m",
    "output=.": "is or holds the working directory",
    'train.stop_if=["eval/loss > 9"]': "can never be true: there are no held-out rows",
}  # fmt: skip
OTHERS = {
    ("evaluate", "no-weights", "data.train=rows.jsonl"): "holds no weights",
    ("evaluate", "m", "data.train=rowz.jsonl"): "rowz.jsonl: no such file",
    ("evaluate", "m", "data.test=broken.jsonl"): "broken.jsonl:7",
    ("sample", "nomodel/", "data.train=rows.jsonl", "--output", "s"): "no such folder",
    ("sample", "cut-weights", "data.train=rows.jsonl", "--output", "s"): "is cut off",
    ("sample", "m", "data.train=rowz.jsonl", "--output", "s"): "rowz.jsonl: no such file",
    ("plan", "r.yaml", "data.train=rowz.jsonl"): "rowz.jsonl: no such file",
    ("plan", "r.yaml", "model.path=no-config"): "is not in it",
    ("plan", "r.yaml", "data.train=column.jsonl"): "column.jsonl",
    ("doctor", "r.yaml", "data.train=rowz.jsonl"): "rowz.jsonl: no such file",
    ("doctor", "r.yaml", "model.path=folder"): "folder: is no model folder",
    ("doctor", "rowz.jsonl"): "rowz.jsonl: no such file",
    ("prepare", "r.yaml", "data.train=twice.jsonl"): "twice.jsonl:4",
    ("prepare", "r.yaml", "model.path=bad-tokenizer"): "is no valid JSON",
}  # fmt: skip
REFUSED = {("train", "r.yaml", mistake): said for mistake, said in TRAIN.items()} | OTHERS


@pytest.fixture(scope="module")
def answers(home, tmp_path_factory):
    """What one process without torch answers to every mistake."""
    asked = home / "asked.json"
    asked.write_text(json.dumps({" ".join(words): words for words in REFUSED}))
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(asked)],
        capture_output=True,
        text=True,
        cwd=home,
        timeout=240,
        env={**os.environ, "EXPTILT_CACHE": str(tmp_path_factory.mktemp("cache")), "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("words", REFUSED, ids=" ".join)
def test_a_mistake_is_told_before_torch_is_imported(answers, words):
    status, err, heavy = answers[" ".join(words)]
    told = err.splitlines()
    assert (status, heavy) == (2, []), err
    assert len(told) == 1, err
    assert REFUSED[words] in told[0]
    assert len(told[0]) < 320
    assert told[0].startswith("exptilt: ")


def test_the_corpus_is_large_enough():
    assert len(REFUSED) >= 65


def test_nothing_was_made_in_the_user_s_folders(home, answers):
    assert not (home / "run").exists()
    assert [path.name for path in (home / "mine").iterdir()] == ["thesis.txt"]


def test_a_full_disk_is_told_from_the_headers_of_the_weights(home, monkeypatch):
    monkeypatch.chdir(home)
    wanted = ["output=there", "model.path=m", "data.train=rows.jsonl"]
    recipe = load(Recipe, None, wanted)
    check_run(recipe)
    weights = sum(tensor.numel() for tensor in load_file("m/model.safetensors").values())
    monkeypatch.setattr("exptilt.disk.free_space", lambda path: 12 * weights)
    with pytest.raises(DiskError, match="checkpoints and model of the run take"):
        check_run(recipe)
    check_run(load(Recipe, None, [*wanted, "adapter={rank: 1}"]))
    monkeypatch.setattr("exptilt.disk.free_space", lambda path: 13 * 4 * weights)
    check_run(recipe)


def test_a_finished_run_needs_its_data_no_more(finished):
    check_run(replace(finished, model=replace(finished.model)))
    Path(finished.data.train).rename(Path(finished.data.train).with_suffix(".gone"))
    check_run(finished)
    with pytest.raises(DataError):
        check_run(replace(finished, output=f"{finished.output}-other"))
    Path(finished.data.train).with_suffix(".gone").rename(finished.data.train)


def test_only_the_first_process_checks(home, monkeypatch):
    monkeypatch.chdir(home)
    recipe = load(Recipe, None, ["output=there", "model.path=m", "data.train=gone.jsonl"])
    monkeypatch.setenv("RANK", "1")
    check_run(recipe)
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(DataError):
        check_run(recipe)


def test_rows_that_only_the_tokenizer_refuses_are_refused_before_the_weights_are_read(make_recipe, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("weights were read")

    monkeypatch.setattr("exptilt.runs.session.models_of", never)
    with pytest.raises(DataError, match="max_tokens"):
        run_recipe(make_recipe("data.max_tokens=4"), page=False)
    with pytest.raises(AssertionError, match="weights were read"):
        run_recipe(make_recipe(), page=False)


def test_texts_that_passed_are_not_read_again(tmp_path, monkeypatch):
    monkeypatch.setenv("EXPTILT_CACHE", str(tmp_path / "cache"))
    lines(tmp_path / "many.jsonl", *rows(LEAST_GROUPS + 10))
    config = DataConfig(train=str(tmp_path / "many.jsonl"))
    assert check_texts(config, PAIR).train.kept == LEAST_GROUPS + 10
    assert check_texts(config, PAIR) is None
    assert check_texts(replace(config, on_tie="drop"), PAIR) is not None
    lines(tmp_path / "many.jsonl", *rows(LEAST_GROUPS + 9))
    assert check_texts(config, PAIR).train.kept == LEAST_GROUPS + 9
