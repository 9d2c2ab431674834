"""A recipe is checked without torch: every mistake, by every verb that reads one, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

RECIPE = "output: run\nmodel: {path: m}\ndata: {train: rows.jsonl}\n"
GRID = "output: grid\ntask: {name: world}\nmethods: [{loss: dpo}]\n"
HEAVY = ("torch", "transformers", "pandas", "scipy", "matplotlib", "peft", "datasets")
RUN = f"""
import json, sys
from exptilt.cli import main
status = 0
try:
    main()
except SystemExit as leaving:
    status = leaving.code or 0
print(json.dumps([status, sorted(set({HEAVY!r}) & set(sys.modules))]), file=sys.stderr)
"""
MISTAKES = {
    "loss.bet=1": "loss.bet: unknown key; did you mean 'beta'?",
    "optim.learning_rate=fast": "optim.learning_rate: must be a valid number, got 'fast'",
    "optim.beta1=1": "optim.beta1 must be in [0, 1), got 1.0",
    "loss.beta=-1": "loss.beta must be > 0 and finite, got -1.0",
    "loss=dpoo": "loss.name: unknown name 'dpoo'; did you mean 'dpo'?",
    "loss={name: mixture, terms: [{loss: {name: bco, treshold: 0}}]}": "terms.0.loss.treshold: unknown key; did you mean 'threshold'?",
}


@pytest.fixture
def here(tmp_path):
    (tmp_path / "r.yaml").write_text(RECIPE)
    (tmp_path / "grid.yaml").write_text(GRID)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(RECIPE)
    return tmp_path


def exptilt(folder, *words):
    """Exit status, heavy modules that were imported, stdout, and stderr."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, *words], capture_output=True, text=True, cwd=folder, timeout=120, check=True
    )
    *lines, last = done.stderr.splitlines()
    status, heavy = json.loads(last)
    return status, heavy, done.stdout, lines


@pytest.mark.parametrize("mistake", MISTAKES)
def test_train_refuses_a_mistake_in_one_line_and_without_torch(here, mistake):
    status, heavy, out, lines = exptilt(here, "train", "r.yaml", mistake)
    assert (status, heavy, out) == (2, [], "")
    assert len(lines) == 1
    assert MISTAKES[mistake] in lines[0]
    assert lines[0].startswith("exptilt: command line: ")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("plan", "r.yaml", "loss.bet=1"), "loss.bet: unknown key"),
        (("doctor", "r.yaml", "loss.beta=-1"), "loss.beta must be > 0"),
        (("evaluate", "run", "evaluate.level=2"), "evaluate.level must be in (0, 1), got 2"),
        (("evaluate", "owner/model", "data.train=x.jsonl", "data.trian=y"), "data.trian: unknown key; did you mean 'train'?"),
        (("frontier", "grid.yaml", "optim.learning_rte=1"), "optim.learning_rte: unknown key"),
        (("frontier", "grid.yaml", "methods=[{loss: {name: ipo, bet: 1}}]"), "methods.0.loss.bet: unknown key"),
        (("frontier", "grid.yaml", "task.nmae=own"), "task.nmae: unknown key; did you mean 'name'?"),
        (("export", "nothing"), "nothing: "),
        (("config", "los"), "los: no key of a recipe; did you mean 'loss'?"),
    ],
)  # fmt: skip
def test_every_verb_refuses_a_mistake_without_torch(here, words, expected):
    if words == ("export", "nothing"):
        words = (*words, "--output", "there")
    status, heavy, out, lines = exptilt(here, *words)
    assert (status, [name for name in heavy if name != "matplotlib" or words[0] != "export"], out) == (2, [], "")
    assert len(lines) == 1
    assert expected in lines[0]


@pytest.mark.parametrize("words", [(), ("loss",), ("loss.dpo",), ("--json-schema",)])
def test_config_needs_no_torch(here, words):
    status, heavy, out, lines = exptilt(here, "config", *words)
    assert (status, heavy, lines) == (0, [], [])
    assert "Direct Preference Optimization" in out


def test_importing_the_package_changes_nothing():
    code = "import os, sys; before = dict(os.environ), set(sys.modules); import exptilt; "
    code += "print(dict(os.environ) == before[0], set(sys.modules) - before[1])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "True {'exptilt'}"
