"""The command line as a stranger meets it: every mistake is a line that says what, where and what to do."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest
import yaml

from exptilt.cli import main
from exptilt.settings.declaration import as_dict
from exptilt.settings.load import load
from exptilt.settings.recipe import Recipe

RECIPE = """\
output: run
model: {config: {hidden_size: 16, num_layers: 1, num_heads: 2, max_positions: 64, vocab_size: 300}}
data: {train: good.jsonl, test_fraction: 0.3}
optim: {learning_rate: 1e-3}
batch: {size: 8}
evaluate: {num_prompts: 2, num_samples: 1, max_new_tokens: 6}
"""
WORDS = ("red", "blue", "green", "good", "bad", "tall", "short", "wet", "dry", "old")
PAIRS = [
    {"prompt": f"Question {n}: is it {word}?", "chosen": f" Yes, it is {word}.", "rejected": f" No, never {word}."}
    for n, word in enumerate(WORDS * 3)
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a good recipe and good rows; the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "ok.yaml").write_text(RECIPE)
    write("good.jsonl", PAIRS)
    (tmp_path / "folder").mkdir()
    return tmp_path


def write(name, rows):
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    Path(name).write_text("".join(line + "\n" for line in lines))


@pytest.fixture
def exptilt(here, monkeypatch, capfd):
    """`exptilt("train", "ok.yaml")` -> exit status, stdout, stderr."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["exptilt", *map(str, words)])
        try:
            main()
            status = 0
        except SystemExit as leaving:
            status = leaving.code or 0
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        assert not re.search(r"\bnan\b", out, re.IGNORECASE)
        return status, out, err

    return call


def refusal(call, *words):
    """The lines of a refusal; everything else about it is checked here."""
    status, out, err = call(*words)
    assert (status, out) == (2, "")
    lines = [line for line in err.splitlines() if line.startswith("exptilt: ")]
    assert lines
    return [line.removeprefix("exptilt: ") for line in lines]


def test_help_needs_no_torch():
    code = "import sys, exptilt.cli; print(sorted({'torch', 'transformers', 'datasets', 'rich'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_help_names_every_verb(exptilt):
    status, out, _ = exptilt("--help")
    assert status == 0
    assert {"demo", "init", "doctor", "train", "evaluate", "report", "config"} <= set(out.split())
    assert max(map(len, out.splitlines())) <= 80
    status, out, err = exptilt("trian", "ok.yaml")
    assert status == 2
    assert "Did you mean 'train'?" in err


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("loss=ipoo", "command line: loss.name: unknown name 'ipoo'; did you mean 'ipo'?"),
        ("loss.bet=1", "command line: loss.bet: unknown key; did you mean 'beta'?"),
        ("loss.beta=-1", "command line: loss.beta must be > 0 and finite, got -1.0"),
        ("loss.beta=.nan", "command line: loss.beta must be > 0 and finite, got nan"),
        ("loss.beta=abc", "command line: loss.beta: must be a valid number, got 'abc'"),
        ("loss=3", "command line: loss: must hold keys of its own, got 3"),
        ("optim.learning_rte=1", "command line: optim.learning_rte: unknown key; did you mean 'learning_rate'?"),
        ("optim.learning_rate=1e-6x", "command line: optim.learning_rate: must be a valid number, got '1e-6x'"),
        ("train.epochs=0", "command line: train.epochs must be > 0, got 0.0"),
        ("train.resume=maybe", "command line: train.resume: must be 'auto', 'never' or 'force', got 'maybe'"),
        ("batch.size=1.5", "command line: batch.size: must be a valid integer, got 1.5"),
        ("data.on_empty=dorp", "command line: data.on_empty: must be 'error', 'drop' or 'keep', got 'dorp'"),
        ("model=foo", "command line: model: must hold keys of its own, such as model.path, got 'foo'"),
        ("model.path=x", "ok.yaml line 2: model: give either path or config, not both"),
        ("epochs=3", "unknown key"),
        ("beta", "'beta' is not of the form key=value (for example train.max_steps=100)"),
        ("loss.beta={a: b", "is not valid YAML; quote it if it is text"),
        ("seed=-1", "command line: seed must be in [0, 2**32), got -1"),
        ("output=", "command line: output: must be a valid string, got null"),
    ],
)
def test_a_wrong_setting_is_one_line(exptilt, override, expected):
    (line,) = refusal(exptilt, "train", "ok.yaml", override)
    assert expected in line


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, ["bad.yaml: no such file; `exptilt init bad.yaml` writes a commented recipe there"]),
        (b"\xff\xfe\x00", ["bad.yaml: cannot be read as text"]),
        (b"", ["output: missing", "model: missing", "data: missing"]),
        (b"- a\n", ["a recipe is a mapping of keys to values, this is a list"]),
        (b"output: a\nmodel:\n\tpath: b\n", ["bad.yaml line 3: not valid YAML"]),
        (b"output: a\nmodel:\ndata:\n", ["line 2: model: must hold keys of its own", "line 3: data: must hold keys"]),
        (b"output: a\noutput: b\n", ["bad.yaml line 2: output: written twice"]),
    ],
)
def test_a_file_that_is_no_recipe(exptilt, content, expected):
    if content is not None:
        Path("bad.yaml").write_bytes(content)
    lines = refusal(exptilt, "train", "bad.yaml")
    assert len(lines) == len(expected)
    assert all(part in line for part, line in zip(expected, lines, strict=True))
    assert "is a folder, not a recipe file" in refusal(exptilt, "train", "folder")[0]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], "rows.jsonl: the file is empty"),
        (["", ""], "rows.jsonl: there is not one row in it"),
        ([*PAIRS, {"prompt": "a", "chosen": "b"}], "rows.jsonl:31: column 'rejected' is missing; repair the row, or set data.on_inv"),
        ([*PAIRS[:7], '{"prompt": "a" 3}'], "rows.jsonl:8: invalid JSON: Expecting ',' delimiter at column 16"),
        ([*PAIRS, PAIRS[3] | {"chosen": "  "}], "rows.jsonl:31: chosen is empty or only white space; repair the row, or set data.on_empty"),
        ([*PAIRS, PAIRS[3] | {"chosen": PAIRS[3]["rejected"]}], "rows.jsonl:31: chosen and rejected are identical"),
        ([*PAIRS, PAIRS[3] | {"prompt": "very long " * 99}], "or set data.on_too_long to drop"),
        ([*PAIRS, PAIRS[0]], "rows.jsonl:31: repeats rows.jsonl:1; remove the copies"),
        ([{"foo": str(n), "bar": "b"} for n in range(9)], "no known format has its columns"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_used_are_named(exptilt, rows, expected):
    write("rows.jsonl", rows)
    lines = refusal(exptilt, "train", "ok.yaml", "data.train=rows.jsonl")
    assert len(lines) == 1
    assert expected in lines[0]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["data.train=god.jsonl"], "god.jsonl: no such file or folder; did you mean good.jsonl?"),
        (["data.train=missing.jsonl"], "missing.jsonl: no such file or folder"),
        (["data.train=folder"], "folder: holds neither files of rows nor a data set saved by datasets"),
        (["data.train=nobody/nothing"], "nobody/nothing: no such file here, and the hub "),
        (["data.test_fraction=0.0001"], "leaves 30 rows to train on and 0 to test on"),
        (["data.test_fraction=0", "data.test=good.jsonl"], "train and test are the same rows"),
        (["model.config=null"], "no model given: set model.path to a folder or hub id"),
        (
            ["model.config=null", "model.path=folder"],
            "folder: is no model folder, config.json or",
        ),
        (["model.config=null", "model.path=./none"], "model.path: ./none: no such folder"),
        (
            ["model.config=null", "model.path=nobody/nothing"],
            "nobody/nothing: no folder of that name here, and neither",
        ),
        (["output=good.jsonl"], "good.jsonl: output must be a folder, and a file is in its way"),
        (["output=good.jsonl/run"], "output must be a folder, and a file is in its way"),
        (["output=/proc/none/run"], "/proc/none/run: the run folder cannot be written (No such file or directory)"),
    ],
)
def test_places_that_are_not_what_they_should_be(exptilt, overrides, expected):
    (line,) = refusal(exptilt, "train", "ok.yaml", *overrides)
    assert expected in line


def test_train_measures_reports_and_goes_on(exptilt, here):
    status, out, err = exptilt("train", "ok.yaml")
    assert status == 0
    assert "report: run/report.html" in err
    assert re.search(r"accuracy with reference, sum +[01]\.\d{3} +\[0\.\d{3}, [01]\.\d{3}\]", out)
    assert re.search(r"KL, nats +\d\.\d{3} +\[", out)
    status, again, err = exptilt("train", "ok.yaml")
    assert (status, again) == (0, out)
    assert "this run is finished" in err
    (line,) = refusal(exptilt, "train", "ok.yaml", "loss=ipo")
    assert "run: holds a run of another recipe (different: loss.name" in line
    assert load(Recipe, here / "run" / "config.yaml").loss.name == "dpo"
    assert exptilt("report", "run")[:2] == (0, "run/report.html\n")
    assert exptilt("report", "run", "run", "--output", "both.html")[:2] == (0, "both.html\n")
    write("other.jsonl", [pair | {"prompt": "Other: " + pair["prompt"]} for pair in PAIRS[:10]])
    status, out, err = exptilt("evaluate", "run", "data.test=other.jsonl")
    assert status == 0
    assert "written: run/evaluation-other.json" in out


def test_what_is_no_run(exptilt):
    for verb, words in (("evaluate", "is not a run folder"), ("report", "a report is made from a folder that")):
        for place in ("none", "folder", "good.jsonl"):
            (line,) = refusal(exptilt, verb, place)
            assert place in line
            assert words in line
    assert exptilt("report")[0] == 2


def test_doctor_says_by_its_status_whether_a_run_would_start(exptilt):
    assert exptilt("doctor", "ok.yaml")[0] == 0
    status, out, _ = exptilt("doctor", "good.jsonl", "--json")
    assert (status, json.loads(out)["train"]["kept"]) == (0, 30)
    write("bad.jsonl", [*PAIRS, PAIRS[3] | {"chosen": ""}])
    status, out, _ = exptilt("doctor", "bad.jsonl", "--json")
    assert (status, json.loads(out)["findings"][0]["code"]) == (1, "empty")
    assert exptilt("doctor", "bad.jsonl", "data.on_empty=drop", "--html", "page.html")[0] == 0
    assert "A run would take these data." in Path("page.html").read_text()
    assert "--reference-check needs a model" in refusal(exptilt, "doctor", "good.jsonl", "--reference-check")[0]
    assert "no such file" in refusal(exptilt, "doctor", "none.jsonl")[0]


def test_init_writes_a_recipe_once(exptilt):
    status, out, _ = exptilt("init")
    assert status == 0
    assert "exptilt doctor recipe.yaml" in out
    assert load(Recipe, "recipe.yaml").loss.name == "dpo"
    assert "exists already" in refusal(exptilt, "init")[0]
    assert exptilt("init", "--force")[0] == 0
    assert "path/to/model-folder-or-hub-id: no such folder" in refusal(exptilt, "doctor", "recipe.yaml")[0]


def test_the_schema_accepts_good_recipes_and_refuses_bad_ones(exptilt):
    status, out, _ = exptilt("config", "--json-schema")
    described = json.loads(out)
    jsonschema.Draft202012Validator.check_schema(described)
    assert status == 0
    assert exptilt("init")[0] == 0
    jsonschema.validate(yaml.safe_load(Path("recipe.yaml").read_text()) | {"optim": {"learning_rate": 1e-6}}, described)
    jsonschema.validate(as_dict(load(Recipe, "ok.yaml", ["loss=kto"])), described)
    for bad in ({"los": "dpo"}, {"loss": {"name": "dpoo"}}, {"batch": {"size": "many"}}, {"data": {}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(as_dict(load(Recipe, "ok.yaml")) | bad, described)


def test_config_shows_what_is_asked_for(exptilt):
    status, out, _ = exptilt("config", "optim.learning_rate")
    assert status == 0
    assert "optim.learning_rate  1e-6" in out
    assert refusal(exptilt, "config", "optim.learningrate") == [
        "optim.learningrate: no key of a recipe; did you mean 'optim.learning_rate'?"
    ]


def test_a_reader_that_leaves_early_is_no_error(here):
    words = f"{sys.executable} -m exptilt.cli config --json-schema | head -n 1"
    done = subprocess.run(words, shell=True, capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout.strip(), done.stderr) == ("{", "")


def test_ctrl_c_leaves_a_checkpoint_and_the_command_that_goes_on(exptilt, here):
    words = [sys.executable, "-m", "exptilt.cli", "train", "ok.yaml", "train.epochs=400", "train.log_every=1"]
    environment = os.environ | {"EXPTILT_CACHE": str(here / "cache"), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(words, env=environment, text=True, **pipes) as process:
        metrics = here / "run" / "metrics.jsonl"
        deadline = time.monotonic() + 100
        while not (metrics.is_file() and metrics.read_text().count("\n") > 3) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    step = int(re.search(r"stopped at step (\d+); to go on: exptilt train ok\.yaml train\.epochs=400", out)[1])
    assert (here / "run" / "checkpoints" / f"step-{step:08d}" / "manifest.json").is_file()
    assert json.loads((here / "run" / "run.json").read_text())["status"] == "stopped"
    (line,) = refusal(exptilt, "evaluate", "run")
    assert "run/model: there is no model; finish the run with `exptilt train` first" in line
