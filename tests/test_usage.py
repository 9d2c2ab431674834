"""Commands that cannot be read: one line with what was meant."""

import subprocess
import sys

import pytest

from exptilt.usage import read_as_meant, usage_line

MISTAKES = {
    "train": "train: the recipe is missing; `exptilt init` writes one",
    "plan": "plan: the recipe is missing",
    "train r.yaml --beta=0.2": "did you mean 'loss.beta', written key=value?",
    "train r.yaml --lr 1": "it is 'optim.learning_rate' here, written key=value",
    "train r.yaml --learning-rate 1": "did you mean 'optim.learning_rate'",
    "plan r.yaml --gpu 3": "did you mean --gpus?",
    "plan r.yaml --gpus": "--gpus",
    "trian r.yaml": "did you mean 'train'?",
    "demo --seed x": "--seed",
    "export": "missing argument",
    "train beta=0.2": "the recipe comes first",
    "train --loss.beta=0.2": "the recipe comes first",
    "train nowhere.yaml": "no such file; `exptilt init",
    "--versoin": "did you mean --version?",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_line(words, tmp_path):
    command = [sys.executable, "-m", "exptilt", *words.split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    (line,) = done.stderr.splitlines()
    assert line.startswith("exptilt: ")
    assert MISTAKES[words].lower() in line.lower()
    assert len(line) < 300
    assert done.returncode == 2
    assert done.stdout == ""


def test_a_bare_command_shows_its_help(tmp_path):
    done = subprocess.run([sys.executable, "-m", "exptilt"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "train" in done.stdout
    assert done.returncode == 2


def test_an_override_may_look_like_an_option():
    assert read_as_meant(["--optim.learning_rate=1e-5", "--merge", "--x=1", "a.b=c"]) == [
        "optim.learning_rate=1e-5",
        "--merge",
        "--x=1",
        "a.b=c",
    ]


def test_what_the_library_says_is_kept_in_one_line():
    assert usage_line("Got unexpected extra argument (x)\n", ["report"]) == (
        "report: got unexpected extra argument (x) (see exptilt report --help)"
    )
