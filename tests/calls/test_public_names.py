"""The public surface: quick to import, complete, typed, and documented name by name."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import exptilt as xt
from exptilt.settings.declaration import as_dict

STUB = Path(xt.__file__).with_suffix(".pyi")
NAMES = [name for name in dir(xt) if not name.startswith("_")]
FUNCTIONS = [name for name in NAMES if inspect.isfunction(getattr(xt, name))]
CLASSES = [name for name in NAMES if inspect.isclass(getattr(xt, name))]


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_import_is_quick_and_loads_nothing():
    code = (
        "import sys, time; began = time.process_time(); import exptilt as xt; spent = time.process_time() - began; names = dir(xt); "
        "print(spent < 0.1, len(names) > 80, sorted({'torch', 'numpy', 'pandas', 'pydantic', 'transformers'} & sys.modules.keys()))"
    )
    assert run_python(code).split(maxsplit=2) == ["True", "True", "[]\n"]


def test_settings_need_no_torch():
    code = "import sys, exptilt as xt; xt.LoRA(rank=4); xt.OptimConfig(); xt.Recipe; print('torch' in sys.modules)"
    assert run_python(code) == "False\n"


def test_every_name_is_a_function_or_a_class():
    assert sorted([*FUNCTIONS, *CLASSES]) == sorted(NAMES)
    assert {"train", "evaluate", "score", "sample", "load_rows", "doctor", "judge", "pair", "load_run"} == set(
        FUNCTIONS
    )
    assert {"DPO", "KTO", "SimPO", "BradleyTerry", "LoRA", "Callback"} <= set(CLASSES)


def test_type_checkers_see_the_same_names():
    stub = ast.parse(STUB.read_text())
    imported = {alias.asname for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assigned = {node.targets[0].id for node in stub.body if isinstance(node, ast.Assign)}
    assert {name for name in imported | assigned if not name.startswith("_")} == set(NAMES)


def test_type_checkers_find_mistakes(tmp_path):
    (tmp_path / "snippet.py").write_text(
        "import exptilt as xt\n"
        'run = xt.train("Qwen/Qwen2.5-0.5B", [], loss=xt.DPO(beta=0.1), adapter=xt.LoRA(rank=16))\n'
        "accuracy = xt.evaluate(run.model, []).evaluation.accuracy\n"
        "xt.LoRA(rnk=16)\n"
        'xt.train("m", [], learning_rate=1e-5)\n'
        'xt.DPO(beta="0.1")\n'
        "xt.trian\n"
    )
    options = ["--strict", "--no-site-packages", "--follow-imports=silent", "--cache-dir", str(tmp_path / "cache")]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, str(tmp_path / "snippet.py")],
        capture_output=True,
        text=True,
        env={"MYPYPATH": str(Path(xt.__file__).parents[1]), "PATH": ""},
    )
    errors = [line.partition("snippet.py:")[2] for line in done.stdout.splitlines() if ": error: " in line]
    assert [(line.split(":")[0], line.rpartition("[")[2]) for line in errors] == [
        ("4", "call-arg]"),
        ("5", "call-arg]"),
        ("6", "arg-type]"),
        ("7", "attr-defined]"),
    ]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_says_what_it_takes_gives_and_refuses(name):
    function = getattr(xt, name)
    words = inspect.getdoc(function)
    sections = {heading: words.index(f"\n{heading}:") for heading in ("Args", "Returns", "Raises", "Example")}
    assert list(sections.values()) == sorted(sections.values())
    arguments = words[sections["Args"] : sections["Returns"]]
    undescribed = [each for each in inspect.signature(function).parameters if f"\n    {each}: " not in arguments]
    assert undescribed == []
    assert ">>> " in words[sections["Example"] :]


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_has_an_example(name):
    assert ">>> " in getattr(xt, name).__doc__


def test_results_say_their_units():
    assert "nats" in xt.score.__doc__
    assert "nats" in xt.sample.__doc__
    assert "[0, 1]" in xt.judge.__doc__
    for name in ("metrics", "samples", "evaluation", "steps"):
        assert getattr(xt.RunResult, name).__doc__


def test_a_section_keeps_its_settings():
    assert as_dict(xt.LoRA(rank=4, targets=("q_proj",)))["targets"] == ["q_proj"]


def test_an_unknown_name_is_told():
    with pytest.raises(AttributeError, match=r"exptilt has no 'trian'; did you mean exptilt\.train\?"):
        xt.trian  # noqa: B018


@pytest.mark.parametrize("page", ["README.md", "docs/python.md", "docs/first_run.ipynb"])
def test_pages_name_what_there_is(page):
    text = (Path(__file__).parents[2] / page).read_text()
    used = set(re.findall(r"\bxt\.(\w+)", text))
    assert used - set(NAMES) == set()
    assert "train" in used


def test_every_key_of_a_recipe_is_a_keyword():
    fields = {field.name for field in dataclasses.fields(xt.Recipe)}
    assert fields - set(inspect.signature(xt.train).parameters) == set()
